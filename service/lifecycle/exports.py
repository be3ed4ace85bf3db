"""Commands on exports. Like those of commands.py they take a Session inside an open transaction and never commit."""

from datetime import datetime
from typing import Literal

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from service.lifecycle.claims import Claim, first, held, locked
from service.lifecycle.job_rows import add_job, write_progress
from service.lifecycle.jobs import NotEndedError, stop, succeed
from service.lifecycle.purging import purge_objects
from service.lifecycle.transitions import TERMINAL, State
from service.settings import CANCEL_SECONDS
from service.store.ids import new_id
from service.store.objects import export_prefix
from service.store.tables import Audit, Export, Job

Kind = Literal["cleaned", "flagged", "scores"]
Format = Literal["jsonl", "csv", "parquet"]
Filter = Literal["flagged", "confirmed", "not_rejected"]
"""Which samples `cleaned` leaves out and `flagged` holds; worker/supervisor/export/selection.py says what each
means."""


def create_export(
    session: Session,
    *,
    workspace_id: str,
    audit_id: str,
    kind: Kind,
    format: Format,
    filter: Filter | None,
    max_q: float | None,
    request_id: str | None = None,
    key_id: str | None = None,
    user_id: str | None = None,
) -> Export:
    """Write an export with its queued job.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        audit_id: Id of the audit.
        kind: What is exported: the samples that are left, the flagged ones, or all scores.
        format: The format of the file.
        filter: Which samples count as flagged; None for scores.
        max_q: The false discovery rate at which samples are flagged; None: the audit's.
        request_id: Id of the request that asks for it, for the logs; None without one.
        key_id: Id of the key that asks for it; None where a person does.
        user_id: Id of the person who asks for it; None where a key does.

    Raises:
        LookupError: The workspace has no such audit, or no longer.
        sqlalchemy.exc.IntegrityError: The values do not go together.
    """
    # Whoever deletes the audit waits, and finds the export; or has come first.
    audit = select(Audit.id).where(Audit.workspace_id == workspace_id, Audit.id == audit_id)
    if session.scalar(audit.with_for_update(read=True, key_share=True)) is None:
        raise LookupError(audit_id)
    export_id = new_id("exp")
    job = add_job(session, kind="export", subject_id=export_id, workspace_id=workspace_id, request_id=request_id)
    session.flush()
    export = Export(
        id=export_id,
        workspace_id=workspace_id,
        job_id=job.id,
        audit_id=audit_id,
        kind=kind,
        format=format,
        filter=filter,
        max_q=max_q,
        key_id=key_id,
        user_id=user_id,
    )
    session.add(export)
    session.flush()
    return export


def record_export_progress(
    session: Session, claim: Claim, *, done: int, total: int, unit: str, eta_seconds: float | None
) -> bool:
    """Show how far an export is.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
        done: How many units are done.
        total: How many units there are.
        unit: What is counted, in the plural.
        eta_seconds: Estimated seconds until the end; None: not known.

    Returns:
        False if the claim no longer holds the job; then nothing is written.
    """
    found = held(session, claim)
    if found is None:
        return False
    write_progress(session, found[0], done=done, total=total, unit=unit, eta_seconds=eta_seconds)
    return True


def publish_export(
    session: Session, claim: Claim, *, rows: int, bytes: int, sha256: str, rows_truncated: int | None = None
) -> bool:
    """Make the object that this attempt has stored the export's content, and end the job.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
        rows: How many records the file has.
        bytes: Size of the file.
        sha256: Hash of the file, as hexadecimal digits.
        rows_truncated: How many of its samples the audit did not measure to their end; None where that is not known.

    Returns:
        False if the claim no longer holds the job or a cancel came first; then nothing changes.
    """
    job = succeed(session, claim)
    if job is None:
        return False
    session.execute(
        update(Export)
        .where(Export.id == job.subject_id)
        .values(published_attempt=job.attempt, rows=rows, bytes=bytes, sha256=sha256, rows_truncated=rows_truncated)
    )
    return True


def request_cancel_export(
    session: Session, *, workspace_id: str, export_id: str, within_seconds: float = CANCEL_SECONDS
) -> Job:
    """Ask for an export to stop, as `audits.request_cancel` does for an audit.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        export_id: Id of the export.
        within_seconds: How long its worker may take to stop before it loses the job.

    Returns:
        The export's job.

    Raises:
        LookupError: The workspace has no such export.
    """
    job, at = _job_of(session, workspace_id, export_id)
    stop(session, job, at, within_seconds=within_seconds)
    return job


def delete_export(session: Session, *, workspace_id: str, export_id: str) -> None:
    """Delete an export that has ended, and its job. Its file is purged later by the reconciler.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        export_id: Id of the export.

    Raises:
        LookupError: The workspace has no such export.
        NotEndedError: The export is queued or runs.
    """
    job = _job_of(session, workspace_id, export_id)[0]
    if State(job.state) not in TERMINAL:
        raise NotEndedError(State(job.state))
    purge_objects(session, workspace_id, export_prefix(workspace_id, export_id))
    session.execute(delete(Export).where(Export.id == export_id))
    session.execute(delete(Job).where(Job.id == job.id))


def _job_of(session: Session, workspace_id: str, export_id: str) -> tuple[Job, datetime]:
    """The export's job, locked, with the time. Raises LookupError."""
    job_id = select(Export.job_id).where(Export.workspace_id == workspace_id, Export.id == export_id).scalar_subquery()
    found = first(session, locked().where(Job.id == job_id))
    if found is None:
        raise LookupError(export_id)
    return found
