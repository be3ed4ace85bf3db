"""People as the API shows and takes them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.http.fields import NO_NUL, Storable
from service.roles import Role
from service.store.tables import Membership
from service.store.tables import User as UserTable

MOST_EMAIL_CHARACTERS = 254
"""The longest address that mail can be sent to (RFC 5321, section 4.5.3.1.3, without its brackets)."""


def _address(text: str) -> str:
    text = text.strip().lower()
    name, _, host = text.rpartition("@")
    if not name or not host or any(character.isspace() for character in text):
        raise ValueError("is no e-mail address, such as ada@example.org")
    return text


Email = Annotated[
    Annotated[str, Storable],
    AfterValidator(_address),
    Field(min_length=3, max_length=MOST_EMAIL_CHARACTERS, json_schema_extra=NO_NUL),
]
"""An e-mail address, in lower case."""


class UserAdd(BaseModel):
    """Somebody who is to have a role in the workspace."""

    model_config = ConfigDict(extra="forbid")
    email: Email = Field(description="As the issuer knows it. Who has not signed in yet gets the role when they do.")
    role: Role


class RoleChange(BaseModel):
    """A person's new role."""

    model_config = ConfigDict(extra="forbid")
    role: Role


class User(BaseModel):
    """A person, and what they are in the workspace."""

    object: Literal["user"] = "user"
    id: str
    email: str | None
    email_verified: bool = Field(description="Whether the issuer vouches for the e-mail.")
    name: str | None
    role: Role | None = Field(
        description="In this workspace; null: none, which only admins of the installation's first workspace see."
    )
    given_by: Literal["settings", "admin"] | None = Field(
        description="settings: the role follows the person's groups with each sign-in; admin: an admin gave it."
    )
    created_at: datetime
    last_sign_in_at: datetime | None = Field(description="Null: not yet.")
    disabled_at: datetime | None = Field(description="Since then the person cannot sign in; null: they can.")


def render_user(row: tuple[UserTable, Membership | None]) -> User:
    """Return a person, read with their membership, as the API shows them."""
    user, membership = row
    return User.model_validate(
        {
            **{name: getattr(user, name) for name in User.model_fields if hasattr(user, name)},
            "role": None if membership is None else membership.role,
            "given_by": None if membership is None else membership.given_by,
        }
    )
