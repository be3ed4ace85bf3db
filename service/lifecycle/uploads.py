"""Uploads in parts that nobody goes on with."""

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from service.lifecycle.job_rows import now
from service.lifecycle.purging import purge_objects
from service.store.expiry import BATCH
from service.store.objects import upload_prefix
from service.store.tables import Upload


def delete_expired_uploads(session: Session) -> int:
    """Delete at most BATCH uploads that have expired, and note that their parts are to be deleted.

    Args:
        session: An open transaction.

    Returns:
        How many it were.
    """
    idle = or_(Upload.finishing_until.is_(None), Upload.finishing_until <= now())
    due = select(Upload.id, Upload.workspace_id).where(Upload.expires_at <= now(), idle).order_by(Upload.expires_at)
    expired = session.execute(due.limit(BATCH).with_for_update(skip_locked=True)).all()
    for upload_id, workspace_id in expired:
        purge_objects(session, workspace_id, upload_prefix(workspace_id, upload_id))
    session.execute(delete(Upload).where(Upload.id.in_([upload_id for upload_id, _ in expired])))
    return len(expired)
