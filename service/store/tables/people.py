"""People who sign in without a key, and what they are in which workspace."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ColumnElement, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base, created_at


class User(Base):
    """A person, known by what an issuer calls them. One who was added by e-mail has no subject until they sign in."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)
    issuer: Mapped[str | None]
    """Address of the OpenID Connect issuer, or `trusted-proxy`."""
    subject: Mapped[str | None]
    """Unique at the issuer, and never given to somebody else."""
    email: Mapped[str | None]
    """In lower case."""
    email_verified: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether the issuer vouches for the e-mail."""
    name: Mapped[str | None]
    created_at: Mapped[datetime] = created_at()
    last_sign_in_at: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    """Since then the person cannot sign in, whatever their roles."""
    __table_args__ = (
        UniqueConstraint("issuer", "subject"),
        CheckConstraint("(issuer IS NULL) = (subject IS NULL)", name="identity"),
        CheckConstraint("subject IS NOT NULL OR email IS NOT NULL", name="known"),
        Index("ix_users_email", "email"),
        Index("uq_users_invited", "email", unique=True, postgresql_where=text("subject IS NULL")),
    )

    @hybrid_property
    def shown_name(self) -> str:
        """What pages and the audit log call the person."""
        return self.name or self.email or self.subject or self.id

    @shown_name.inplace.expression
    @classmethod
    def _shown_name(cls) -> ColumnElement[Any]:
        return func.coalesce(cls.name, cls.email, cls.subject, cls.id)


class Membership(Base):
    """What a person is in a workspace."""

    __tablename__ = "memberships"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    role: Mapped[str]
    """viewer, reviewer, editor or admin; service.roles says what each may do."""
    given_by: Mapped[str]
    """settings: by the person's groups or the default role, and looked at again with each sign-in; admin: kept."""
    created_at: Mapped[datetime] = created_at()
    __table_args__ = (
        UniqueConstraint("workspace_id", "user_id"),
        CheckConstraint("role IN ('viewer','reviewer','editor','admin')", name="role"),
        CheckConstraint("given_by IN ('settings','admin')", name="given_by"),
    )
