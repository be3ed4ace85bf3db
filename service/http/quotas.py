"""How much one workspace may have. Nearly all quotas are settings; most are counted under a lock on the workspace."""

from dataclasses import dataclass

from sqlalchemy import Select, SQLColumnExpression, func, select
from sqlalchemy.orm import Session

from service.errors import ConflictError, StorageFullError
from service.lifecycle.transitions import State
from service.settings import Settings
from service.store.tables import AuditStep, Dataset, Export, IdempotencyRecord, Job, Probe, Upload, Workspace
from service.store.verdict_tables import SavedView

MAX_SAVED_VIEWS = 100
"""Saved views of a workspace: a page of findings lists them all."""


@dataclass(frozen=True)
class Limits:
    """What one workspace may have at most, of what can be set for each."""

    max_queued_audits: int
    max_running_audits: int | None
    """How many audits run at once; None: any number.

    Sends JSON that routes have made themselves.
    """
    max_bytes: int


def limits_of(workspace: Workspace, settings: Settings) -> Limits:
    """Return the workspace's own limits and, where it has none, those of the settings.

    Args:
        workspace: The row of the workspace.
        settings: The settings of the installation.
    """
    return Limits(
        max_queued_audits=workspace.max_queued_audits or settings.max_queued_audits,
        max_running_audits=workspace.max_running_audits or settings.max_running_audits,
        max_bytes=workspace.max_bytes or settings.max_workspace_bytes,
    )


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
    limit = limits_of(_one_at_a_time(session, workspace_id), settings).max_queued_audits
    queued = session.scalar(
        select(func.count())
        .select_from(Job)
        .where(Job.workspace_id == workspace_id, Job.kind == "audit", Job.state == State.QUEUED)
        .where(Job.subject_id != (besides or ""))
    )
    if (queued or 0) >= limit:
        detail = (
            f"{queued} audits of this workspace are queued, and it may queue {limit}. Let some start, or cancel some, "
            "and try again; an admin of the installation can set another limit."
        )
        raise ConflictError("queued_audits_quota", detail)


def refuse_deleted(workspace: Workspace) -> None:
    """Refuse what would begin in a workspace that is being deleted, or is deleted.

    Raises:
        ConflictError: `workspace_deleted`.
    """
    if workspace.deletion_requested_at is not None:
        raise ConflictError("workspace_deleted", "This workspace is being deleted: nothing new starts in it.")


@dataclass(frozen=True)
class Storage:
    """Bytes that a workspace has in the object store, as its rows say."""

    uploads: int
    """Files of datasets, and unfinished uploads with the length that they were begun with."""
    recordings: int
    """What the steps of audits have left: recordings and results."""
    exports: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.uploads + self.recordings + self.exports


def read_storage(session: Session, workspace_id: str, *, besides: str | None = None) -> Storage:
    """Read how many bytes a workspace has.

    Args:
        session: An open transaction.
        workspace_id: Which workspace.
        besides: Id of an unfinished upload that does not count: the one that becomes a dataset.
    """
    _, unfinished = _unfinished_uploads(session, workspace_id, besides)

    def total(query: Select[int | None]) -> SQLColumnExpression[int]:
        return func.coalesce(query.scalar_subquery(), 0)

    datasets, recordings, exports = session.execute(
        select(
            total(select(func.sum(Dataset.bytes)).where(Dataset.workspace_id == workspace_id)),
            total(select(func.sum(AuditStep.bytes)).where(AuditStep.workspace_id == workspace_id)),
            total(select(func.sum(Export.bytes)).where(Export.workspace_id == workspace_id)),
        )
    ).one()
    # Of bigint, Postgres sums to numeric.
    return Storage(uploads=int(datasets) + unfinished, recordings=int(recordings), exports=int(exports))


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
        more_bytes: Size of the upload, where it is known.
        more_rows: Likewise its samples.
        besides: Id of an unfinished upload that does not count: the one that becomes the dataset.

    Raises:
        StorageFullError: `storage_quota`.
        ConflictError: `dataset_quota`.
    """
    limit = limits_of(_one_at_a_time(session, workspace_id), settings).max_bytes
    storage = read_storage(session, workspace_id, besides=besides)
    if storage.total >= limit or storage.total + more_bytes > limit:
        sent = f" This file has {more_bytes:,} bytes." if more_bytes else ""
        detail = (
            f"This workspace stores {storage.total:,} bytes ({storage.uploads:,} of uploads, {storage.recordings:,} "
            f"of recordings and results of audits, {storage.exports:,} of exports), and may store {limit:,}.{sent} "
            "Nothing was kept. Delete exports, audits or datasets that you no longer need, and upload it again; an "
            "admin of the installation can set another limit."
        )
        raise StorageFullError("storage_quota", detail)
    rows = session.scalars(
        select(func.coalesce(func.sum(Dataset.rows), 0)).where(Dataset.workspace_id == workspace_id)
    ).one()
    if rows >= settings.max_workspace_rows or rows + more_rows > settings.max_workspace_rows:
        detail = (
            f"The datasets of this workspace have {rows} samples, and with this one they would have more than the "
            f"{settings.max_workspace_rows} that it may have. Nothing was kept. Delete datasets that you no longer "
            "need, and upload it again."
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
        StorageFullError: `storage_quota`.
        ConflictError: `upload_quota`, or `dataset_quota` where the workspace has too many samples.
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


def _one_at_a_time(session: Session, workspace_id: str) -> Workspace:
    # Rows that name the workspace can still be written: their foreign keys take a weaker lock.
    mine = select(Workspace).where(Workspace.id == workspace_id).with_for_update(key_share=True)
    workspace = session.scalars(mine.execution_options(populate_existing=True)).one()
    # Whoever deletes the workspace takes the same lock: a request that was let in before is refused here.
    refuse_deleted(workspace)
    return workspace


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
