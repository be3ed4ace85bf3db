"""The table of the audit log."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base


class AuditLogEntry(Base):
    """What somebody changed. Only added to: a trigger refuses the rest, but for the sweep of old entries."""

    __tablename__ = "audit_log"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    """Where the change was made."""
    at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    key_id: Mapped[str | None]
    """Who made it: a key, a person or, with neither, the service. No foreign keys: what was done outlives both."""
    key_name: Mapped[str | None]
    """As it was called then."""
    user_id: Mapped[str | None]
    user_name: Mapped[str | None]
    """What the person was called then."""
    action: Mapped[str]
    object_id: Mapped[str | None]
    count: Mapped[int | None] = mapped_column(BigInteger)
    """How many things the action changed, where it is about several at once."""
    client: Mapped[str | None]
    """Address that the request came from."""
    request_id: Mapped[str | None]
    __table_args__ = (
        Index("ix_audit_log_workspace_id_id", "workspace_id", "id"),
        CheckConstraint("num_nonnulls(key_id, user_id) <= 1", name="made_by"),
    )
