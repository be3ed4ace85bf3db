"""Reading exports."""

from datetime import datetime

from sqlalchemy import Row, Select, func
from sqlalchemy.orm import Session

from service.audits.queries import render_progress
from service.contract.failure import Failure
from service.exports.schemas import Export
from service.http.auth.principal import Principal
from service.http.auth.scoping import not_found, scoped
from service.http.problems.problem import Problem
from service.lifecycle.transitions import HELD, TERMINAL, State
from service.store.tables import Export as ExportTable
from service.store.tables import Job

Found = Row[ExportTable, Job, datetime]
"""An export, its job and the database's clock."""


def find_export(session: Session, principal: Principal, export_id: str) -> Found:
    """One export. Raises Problem 404 `export_not_found`."""
    found = session.execute(_select_exports(principal).where(ExportTable.id == export_id)).one_or_none()
    if found is None:
        raise not_found("export")
    return found


def find_finished(session: Session, principal: Principal, export_id: str) -> ExportTable:
    """An export whose content is there. Raises Problem 404, or 409 `export_not_finished`."""
    export, job = find_export(session, principal, export_id)[:2]
    if job.state == State.SUCCEEDED:
        return export
    if job.state in TERMINAL:
        ended = "has failed" if job.state == State.FAILED else "has been cancelled"
        raise Problem(409, "export_not_finished", f"This export {ended}: it has no content. Ask for another one.")
    detail = f"This export is {job.state}. Its content comes when it has succeeded."
    raise Problem(409, "export_not_finished", detail, headers={"Retry-After": "2"})


def list_exports(
    session: Session, principal: Principal, *, audit_id: str | None, after: str | None, limit: int
) -> list[Found]:
    """Newest first."""
    query = _select_exports(principal)
    if audit_id is not None:
        query = query.where(ExportTable.audit_id == audit_id)
    if after is not None:
        query = query.where(ExportTable.id < after)
    return list(session.execute(query.order_by(ExportTable.id.desc()).limit(limit)).all())


def render_export(found: Found) -> Export:
    """The export as the API shows it."""
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
