"""Workspaces, keys, sessions of browsers, and requests that must not be repeated."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    SmallInteger,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base, created_at


class Workspace(Base):
    """A tenant. Nobody sees another workspace's rows."""

    __tablename__ = "workspaces"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = created_at()
    max_queued_audits: Mapped[int | None]
    """The workspace's own limit of waiting audits; None: `Settings.max_queued_audits` holds."""
    max_running_audits: Mapped[int | None]
    """The workspace's own limit of running audits; None: `Settings.max_running_audits` holds."""
    max_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """The workspace's own limit of storage; None: `Settings.max_workspace_bytes` holds."""
    deletion_requested_at: Mapped[datetime | None]
    """Since when it is being deleted, or is deleted; service.lifecycle.workspaces has the rest."""
    deletion_due_at: Mapped[datetime | None]
    """From then on the reconciler goes on with the deletion; None: there is nothing more to do."""
    deletion_stage: Mapped[str | None]
    """While it is being deleted, what is done just now: stopping, deleting or clearing."""
    deletion_done: Mapped[int | None] = mapped_column(BigInteger)
    """How many of the `deletion_total` rows are gone."""
    deletion_total: Mapped[int | None] = mapped_column(BigInteger)
    """Rows that were to be deleted, and one for all files."""
    deleted_at: Mapped[datetime | None]
    """When the last of it was gone. The row stays for as long as the audit log names it."""
    __table_args__ = (
        CheckConstraint("max_queued_audits > 0 AND max_running_audits > 0 AND max_bytes > 0", name="limits"),
        CheckConstraint(
            "deletion_requested_at IS NOT NULL OR num_nonnulls(deletion_due_at, deleted_at, deletion_stage, "
            "deletion_done, deletion_total) = 0",
            name="deletion",
        ),
        CheckConstraint("deletion_stage IN ('stopping','deleting','clearing')", name="deletion_stage"),
    )


class ApiKey(Base):
    """A bearer key. Only the SHA-256 of the whole key is stored (its 128 random bits need no slow hash)."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]
    """First characters of the key, to recognise it by."""
    secret_sha256: Mapped[bytes] = mapped_column(unique=True)
    previous_sha256: Mapped[bytes | None] = mapped_column(unique=True)
    """SHA-256 of the text before the last rotation, if that text works until `previous_expires_at`."""
    previous_expires_at: Mapped[datetime | None]
    previous_last_used_at: Mapped[datetime | None]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    __table_args__ = (CheckConstraint("(previous_sha256 IS NULL) = (previous_expires_at IS NULL)", name="previous"),)


class SignInLink(Base):
    """A one-time link that opens a browser session with the rights of a key."""

    __tablename__ = "sign_in_links"
    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class BrowserSession(Base):
    """A signed-in browser: the cookie's SHA-256, and an id that tells nothing of it."""

    __tablename__ = "browser_sessions"
    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    """That of the key, or the one in which the person works just now."""
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    """To the minute."""
    __table_args__ = (CheckConstraint("num_nonnulls(key_id, user_id) = 1", name="owner"),)


class IdempotencyRecord(Base):
    """What a creating request with an Idempotency-Key was answered; see service.http.idempotency."""

    __tablename__ = "idempotency_records"
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    actor_id: Mapped[str] = mapped_column(primary_key=True)
    """Id of the API key or the person that sent it."""
    key: Mapped[str] = mapped_column(primary_key=True)
    """The value of the request's Idempotency-Key."""
    target_sha256: Mapped[bytes]
    """SHA-256 of the request's method, path and query."""
    body_sha256: Mapped[bytes]
    """SHA-256 of the request's body."""
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[list[Any]]
    """[[name, value]] of the answer."""
    body: Mapped[bytes]
    """The body of the recorded answer, without secrets."""
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime] = mapped_column(index=True)
