"""Rows that are of use for a time, and deleted after it."""

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from service.store.tables import IdempotencyRecord

BATCH = 500
"""Rows deleted at a time: each may hold megabytes, and a statement has its time limit."""


def delete_expired_answers(session: Session) -> int:
    """Deletes at most BATCH answers that no Idempotency-Key brings back any more; returns how many it were."""
    identity = (IdempotencyRecord.workspace_id, IdempotencyRecord.key_id, IdempotencyRecord.key)
    due = (
        select(*identity)
        .where(IdempotencyRecord.expires_at <= func.now())
        .order_by(IdempotencyRecord.expires_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    deleted = session.execute(delete(IdempotencyRecord).where(tuple_(*identity).in_(due)).returning(*identity))
    return len(deleted.all())
