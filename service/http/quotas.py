"""How much one workspace may have. Nearly all quotas are settings; most are counted under a lock on the workspace."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import ConflictError
from service.lifecycle.transitions import State
from service.settings import Settings
from service.store.tables import Dataset, Export, IdempotencyRecord, Job, Probe, Upload, Workspace
from service.store.verdict_tables import SavedView

MAX_SAVED_VIEWS = 100
"""Saved views of a workspace: a page of findings lists them all."""


def check_queued_audits(session: Session, workspace_id: str, settings: Settings, *, besides: str | None = None) -> None:
    """See that one more audit may be queued.

    Args:
        session: An open transaction, which keeps others from creating in the workspace until it ends.
        workspace_id: Whose audit it becomes.
        settings: Hold the quota.
        besides: Id of an audit that does not count: the one that is to be queued again.

    Raises:
        ConflictError: `queued_audits_quota`.
    """
    _one_at_a_time(session, workspace_id)
    queued = session.scalar(
        select(func.count())
        .select_from(Job)
        .where(Job.workspace_id == workspace_id, Job.kind == "audit", Job.state == State.QUEUED)
        .where(Job.subject_id != (besides or ""))
    )
    if (queued or 0) >= settings.max_queued_audits:
        detail = (
            f"{queued} audits of this workspace are queued, and it may queue {settings.max_queued_audits}. Let some "
            "start, or cancel some, and try again."
        )
        raise ConflictError("queued_audits_quota", detail)


def check_datasets(
    session: Session,
    workspace_id: str,
    settings: Settings,
    *,
    more_bytes: int = 0,
    more_rows: int = 0,
    besides: str | None = None,
) -> None:
    """See that the workspace has room for one more dataset.

    Args:
        session: An open transaction, which keeps others from creating in the workspace until it ends.
        workspace_id: Whose dataset it becomes.
        settings: Hold the quotas.
        more_bytes: Of the upload, where they are known.
        more_rows: Likewise its samples.
        besides: Id of an unfinished upload that does not count: the one that becomes the dataset.

    Raises:
        ConflictError: `dataset_quota`.
    """
    _one_at_a_time(session, workspace_id)
    size, rows = session.execute(
        select(func.coalesce(func.sum(Dataset.bytes), 0), func.coalesce(func.sum(Dataset.rows), 0)).where(
            Dataset.workspace_id == workspace_id
        )
    ).one()
    _, unfinished = _unfinished_uploads(session, workspace_id, besides)
    size += unfinished
    full = size >= settings.max_workspace_bytes or rows >= settings.max_workspace_rows
    beyond = size + more_bytes > settings.max_workspace_bytes or rows + more_rows > settings.max_workspace_rows
    if full or beyond:
        detail = (
            f"The datasets of this workspace, and its unfinished uploads, have {size} bytes and {rows} samples, and "
            f"with this one they would have more than the {settings.max_workspace_bytes} bytes or "
            f"{settings.max_workspace_rows} samples that it may have. Nothing was kept. Delete datasets that you no "
            "longer need, and upload it again."
        )
        raise ConflictError("dataset_quota", detail)


def check_uploads(session: Session, workspace_id: str, settings: Settings, *, more_bytes: int) -> None:
    """See that the workspace may begin one more upload in parts.

    Args:
        session: An open transaction, which keeps others from creating in the workspace until it ends.
        workspace_id: Whose upload it becomes.
        settings: Hold the quotas.
        more_bytes: How many it will have.

    Raises:
        ConflictError: `upload_quota`, or `dataset_quota` where there is no room for the dataset.
    """
    check_datasets(session, workspace_id, settings, more_bytes=more_bytes)
    uploads, _ = _unfinished_uploads(session, workspace_id, None)
    if uploads >= settings.max_workspace_uploads:
        detail = (
            f"This workspace has {uploads} unfinished uploads, and may have {settings.max_workspace_uploads}. Finish "
            "or delete some, and try again."
        )
        raise ConflictError("upload_quota", detail)


def check_probes(session: Session, workspace_id: str, settings: Settings) -> None:
    """See that the workspace may have one more probe.

    Args:
        session: An open transaction, which keeps others from creating in the workspace until it ends.
        workspace_id: Whose probe it becomes.
        settings: Hold the quota.

    Raises:
        ConflictError: `probe_quota`.
    """
    _check_number(session, workspace_id, Probe, settings.max_workspace_probes, "probe", "that you no longer need")


def check_exports(session: Session, workspace_id: str, settings: Settings) -> None:
    """See that the workspace may have one more export.

    Args:
        session: An open transaction, which keeps others from creating in the workspace until it ends.
        workspace_id: Whose export it becomes.
        settings: Hold the quota.

    Raises:
        ConflictError: `export_quota`.
    """
    _check_number(session, workspace_id, Export, settings.max_workspace_exports, "export", "whose content you have")


def check_saved_views(session: Session, workspace_id: str) -> None:
    """See that the workspace may have one more saved view.

    Args:
        session: An open transaction, which keeps others from creating in the workspace until it ends.
        workspace_id: Whose view it becomes.

    Raises:
        ConflictError: `view_quota`.
    """
    _check_number(session, workspace_id, SavedView, MAX_SAVED_VIEWS, "view", "that you no longer need")


def check_idempotency_records(session: Session, workspace_id: str, settings: Settings) -> None:
    """See that one more answer may be kept under an Idempotency-Key.

    Others may be creating in the workspace meanwhile, so that there may be some more records than the quota says: to
    wait for each other would cost more than they take.

    Args:
        session: An open transaction.
        workspace_id: Whose record it becomes.
        settings: Hold the quotas.

    Raises:
        ConflictError: `idempotency_quota`.
    """
    records, size = session.execute(
        select(func.count(), func.coalesce(func.sum(func.octet_length(IdempotencyRecord.body)), 0)).where(
            IdempotencyRecord.workspace_id == workspace_id, IdempotencyRecord.expires_at > func.now()
        )
    ).one()
    if records >= settings.max_idempotency_records or size >= settings.max_idempotency_bytes:
        detail = (
            f"The answers to {records} requests of this workspace with an Idempotency-Key are kept, {size} bytes, and "
            f"they may be {settings.max_idempotency_records}, or {settings.max_idempotency_bytes} bytes. Nothing was "
            "done. Send the request without the key, or wait: each answer is kept for 24 hours."
        )
        raise ConflictError("idempotency_quota", detail)


def _one_at_a_time(session: Session, workspace_id: str) -> None:
    # Rows that name the workspace can still be written: their foreign keys take a weaker lock.
    session.execute(select(Workspace.id).where(Workspace.id == workspace_id).with_for_update(key_share=True))


def _unfinished_uploads(session: Session, workspace_id: str, besides: str | None) -> tuple[int, int]:
    """Count the uploads in parts that are no dataset yet, and the bytes that they were begun with."""
    unfinished = (
        Upload.workspace_id == workspace_id,
        Upload.dataset_id.is_(None),
        Upload.expires_at > func.now(),
        Upload.id != (besides or ""),
    )
    number, size = session.execute(
        select(func.count(), func.coalesce(func.sum(Upload.bytes), 0)).where(*unfinished)
    ).one()
    return number, size


def _check_number(
    session: Session,
    workspace_id: str,
    table: type[Probe] | type[Export] | type[SavedView],
    most: int,
    noun: str,
    deletable: str,
) -> None:
    """Refuse one more row of a table where the workspace has `most` already, or more."""
    _one_at_a_time(session, workspace_id)
    mine = table.workspace_id == workspace_id
    number = session.scalars(select(func.count()).select_from(table).where(mine)).one()
    if number >= most:
        detail = f"This workspace has {number} {noun}s, and may have {most}. Delete some {deletable}, and try again."
        raise ConflictError(f"{noun}_quota", detail)
