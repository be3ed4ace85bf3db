"""Keys as the API shows and takes them."""

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.http.auth import Scope
from service.http.fields import Name
from service.store.tables import ApiKey


class KeyCreate(BaseModel):
    """A new key: its name, what it may do, and how long."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    scopes: list[Scope] = Field(min_length=1, max_length=5)
    expires_at: AwareDatetime | None = Field(default=None, description="RFC 3339 with an offset; null: never.")


class Key(BaseModel):
    """A key without its text."""

    object: Literal["key"] = "key"
    id: str
    name: str
    prefix: str = Field(description="The first characters, to recognise the key by.")
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")
    revoked_at: datetime | None


class KeyWithSecret(Key):
    """A key with its text, which is shown this once."""

    secret: str | None = Field(description="Null in a replayed answer, since it is stored nowhere: rotate the key.")


def render_key(key: ApiKey) -> Key:
    """The key as the API shows it."""
    return Key.model_validate(key, from_attributes=True)


def render_key_with_secret(key: ApiKey, secret: str) -> KeyWithSecret:
    """The answer that holds the key's text."""
    return KeyWithSecret(**render_key(key).model_dump(), secret=secret)
