"""Rows that are of use for a time, and deleted after it."""

from datetime import timedelta

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from service.store.tables import AuditLogEntry, IdempotencyRecord

BATCH = 500
"""Rows deleted at a time: each may hold megabytes, and a statement has its time limit."""


def delete_expired_answers(session: Session) -> int:
    """Deletes at most BATCH answers that no Idempotency-Key brings back any more; returns how many it were."""
    identity = (IdempotencyRecord.workspace_id, IdempotencyRecord.actor_id, IdempotencyRecord.key)
    due = (
        select(*identity)
        .where(IdempotencyRecord.expires_at <= func.now())
        .order_by(IdempotencyRecord.expires_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    deleted = session.execute(delete(IdempotencyRecord).where(tuple_(*identity).in_(due)).returning(*identity))
    return len(deleted.all())


def delete_old_log_entries(session: Session, *, days: int) -> int:
    """Delete at most BATCH of the audit log's entries that are older than so many days.

    Args:
        session: An open transaction; until this returns it may delete entries, as no other may.
        days: How long entries are kept.

    Returns:
        How many it were.
    """
    due = (
        select(AuditLogEntry.id)
        .where(AuditLogEntry.at < func.now() - timedelta(days=days))
        .order_by(AuditLogEntry.at)
        .limit(BATCH)
    )
    session.execute(select(func.set_config("finetooth.audit_log_sweep", "on", True)))
    deleted = session.execute(delete(AuditLogEntry).where(AuditLogEntry.id.in_(due)).returning(AuditLogEntry.id)).all()
    session.execute(select(func.set_config("finetooth.audit_log_sweep", "off", True)))
    return len(deleted)
