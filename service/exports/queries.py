"""Reads exports."""

from datetime import datetime

from sqlalchemy import Row, Select, func
from sqlalchemy.orm import Session

from service.audits.queries import render_progress
from service.contract.failure import Failure
from service.errors import ConflictError, NotFoundError
from service.exports.schemas import Export
from service.lifecycle.transitions import HELD, TERMINAL, State
from service.principal import Principal
from service.scoping import scoped
from service.store.newest_first import newest_first
from service.store.tables import Export as ExportTable
from service.store.tables import Job

ExportRow = Row[ExportTable, Job, datetime]
"""An export, its job and the database's clock."""


def find_export(session: Session, principal: Principal, export_id: str) -> ExportRow:
    """Return one export.

    Args:
        session: An open transaction.
        principal: Who is asking.
        export_id: The export.

    Raises:
        NotFoundError: `export_not_found`.
    """
    found = session.execute(_select_exports(principal).where(ExportTable.id == export_id)).one_or_none()
    if found is None:
        raise NotFoundError("export")
    return found


def find_finished(session: Session, principal: Principal, export_id: str) -> ExportTable:
    """Return an export that has succeeded, so that its content exists.

    Args:
        session: An open transaction.
        principal: Who is asking.
        export_id: The export.

    Raises:
        NotFoundError: `export_not_found`.
        ConflictError: `export_not_finished`.
    """
    export, job = find_export(session, principal, export_id)[:2]
    if job.state == State.SUCCEEDED:
        return export
    if job.state in TERMINAL:
        ended = "has failed" if job.state == State.FAILED else "has been cancelled"
        raise ConflictError("export_not_finished", f"This export {ended}: it has no content. Ask for another one.")
    detail = f"This export is {job.state}. Its content comes when it has succeeded."
    raise ConflictError("export_not_finished", detail, retry_after=2)


def list_exports(
    session: Session, principal: Principal, *, audit_id: str | None, after: str | None, limit: int
) -> list[ExportRow]:
    """Return the workspace's exports, the newest first.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Only exports of this audit; None for all.
        after: Id of the last export of the page before; None for the first page.
        limit: The most exports to return.
    """
    query = _select_exports(principal)
    if audit_id is not None:
        query = query.where(ExportTable.audit_id == audit_id)
    return list(session.execute(newest_first(query, ExportTable.id, after=after, limit=limit)).all())


def render_export(found: ExportRow) -> Export:
    """Return the export as the API shows it."""
    export, job, now = found
    return Export.model_validate(
        {
            **{name: getattr(export, name) for name in Export.model_fields if hasattr(export, name)},
            "status": State(job.state),
            "progress": render_progress(export, now) if job.state in HELD else None,
            "attempt": job.attempt,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "cancel_requested_at": job.cancel_requested_at,
            "error": None if job.error is None else Failure.model_validate(job.error),
        }
    )


def _select_exports(principal: Principal) -> Select[ExportTable, Job, datetime]:
    return (
        scoped(ExportTable, principal)
        .add_columns(Job, func.now())
        .join(Job, (Job.workspace_id == ExportTable.workspace_id) & (Job.id == ExportTable.job_id))
    )
