"""Keys as the API shows and takes them."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from service.http.fields import Name, WholeNumber
from service.principal import Scope
from service.store.tables import ApiKey, BrowserSession

MAX_OVERLAP_SECONDS = 30 * 24 * 3600
"""For how long the text before a rotation may work on: 30 days."""

MAX_LIFETIME = timedelta(days=36_525)
"""A hundred years; what is longer is a mistake, and some clients cannot read its date."""


def _ahead(expires_at: datetime) -> datetime:
    now = datetime.now(UTC)
    if expires_at <= now:
        raise ValueError("lies in the past: the key would have expired already")
    if expires_at - now > MAX_LIFETIME:
        raise ValueError("lies more than a hundred years ahead: use null for a key that never expires")
    return expires_at.astimezone(UTC)


class KeyCreate(BaseModel):
    """A new key: its name, what it may do, and how long."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    scopes: list[Scope] = Field(min_length=1, max_length=5)
    expires_at: Annotated[AwareDatetime, AfterValidator(_ahead)] | None = Field(
        default=None, description="RFC 3339 with an offset, in the future; null: never."
    )


class KeyRotate(BaseModel):
    """How a key gets its new text."""

    model_config = ConfigDict(extra="forbid")
    overlap_seconds: WholeNumber = Field(
        default=0, ge=0, le=MAX_OVERLAP_SECONDS, description="How long the old text goes on working; at most 30 days."
    )


class Key(BaseModel):
    """A key without its text."""

    object: Literal["key"] = "key"
    id: str
    name: str
    prefix: str = Field(description="The first characters, to recognise the key by.")
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None = Field(description="From then on it does not work; null: never.")
    last_used_at: datetime | None = Field(description="Of the text that the key has now. To the minute.")
    previous_expires_at: datetime | None = Field(
        description="Until then the text before the last rotation works too; null: it has ended."
    )
    previous_last_used_at: datetime | None = Field(
        description="Of the text before the last rotation: whether somebody still uses it."
    )
    revoked_at: datetime | None


class KeyWithSecret(Key):
    """A key with its text, which is shown this once."""

    secret: str | None = Field(description="Null in a replayed answer, since it is stored nowhere: rotate the key.")


def render_key(key: ApiKey) -> Key:
    """Show the key as the API does."""
    return Key.model_validate(key, from_attributes=True)


def render_key_with_secret(key: ApiKey, secret: str) -> KeyWithSecret:
    """Show the key with its text, as only the answer that creates or rotates it does.

    Args:
        key: The row of the key.
        secret: Its text.
    """
    return KeyWithSecret(**render_key(key).model_dump(), secret=secret)


class SignedInBrowser(BaseModel):
    """A browser that is signed in with a key or as a person, without its cookie."""

    object: Literal["session"] = "session"
    id: str
    key_id: str | None = Field(description="The key that it signed in with, whose scopes it has; null for a person.")
    key_name: str | None
    user_id: str | None = Field(description="The person who signed in, whose role it has; null for a key.")
    user_name: str | None
    created_at: datetime
    last_used_at: datetime | None = Field(description="To the minute; null: not since it signed in.")
    expires_at: datetime = Field(description="Then it is signed out; earlier where its key ends.")


def render_session(row: tuple[BrowserSession, str | None, str | None]) -> SignedInBrowser:
    """Show a signed-in browser, read with the name of its key or person, as the API does."""
    browser, key_name, user_name = row
    return SignedInBrowser(
        id=browser.id,
        key_id=browser.key_id,
        key_name=key_name,
        user_id=browser.user_id,
        user_name=user_name,
        created_at=browser.created_at,
        last_used_at=browser.last_used_at,
        expires_at=browser.expires_at,
    )
