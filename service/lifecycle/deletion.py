"""Deleting an audit: like those of commands.py a command that takes an open transaction and never commits."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.lifecycle.audits import current_job
from service.lifecycle.claims import locked
from service.lifecycle.jobs import NotEndedError
from service.lifecycle.purging import purge_data, purge_objects
from service.lifecycle.transitions import TERMINAL, State
from service.store.objects import audit_prefix, export_prefix
from service.store.tables import Audit, AuditEvent, AuditProbe, AuditStep, Export, Job


class ExportsNotEndedError(Exception):
    """Exports of the audit are queued or run: `export_ids`."""

    def __init__(self, export_ids: list[str]) -> None:
        super().__init__(export_ids)
        self.export_ids = export_ids


def delete_audit(session: Session, *, workspace_id: str, audit_id: str) -> None:
    """Delete an audit that has ended, with its exports. Its scores and files are purged later by the reconciler.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        audit_id: Id of the audit.

    Raises:
        LookupError: The workspace has no such audit.
        NotEndedError: The audit is queued or runs.
        ExportsNotEndedError: An export of the audit is queued or runs.
    """
    # Its job first, as whoever else writes it: a retry waits here, and then finds nothing.
    job = current_job(session, workspace_id, audit_id)[0]
    if State(job.state) not in TERMINAL:
        raise NotEndedError(State(job.state))
    # Whoever asks for an export holds this row a little until it is written, and is waited for.
    session.execute(select(Audit.id).where(Audit.id == audit_id).with_for_update())
    of_audit = select(Export.job_id).where(Export.workspace_id == workspace_id, Export.audit_id == audit_id)
    exports = [found[0] for found in session.execute(locked().where(Job.id.in_(of_audit)).order_by(Job.id))]
    running = sorted(export.subject_id for export in exports if State(export.state) not in TERMINAL)
    if running:
        raise ExportsNotEndedError(running)
    for table in (AuditEvent, AuditStep, AuditProbe, Export):
        session.execute(delete(table).where(table.audit_id == audit_id))
    session.execute(delete(Audit).where(Audit.id == audit_id))
    subjects = [audit_id, *(export.subject_id for export in exports)]
    session.execute(delete(Job).where(Job.workspace_id == workspace_id, Job.subject_id.in_(subjects)))
    purge_data(session, audit_id)
    prefixes = [export_prefix(workspace_id, export_id) for export_id in subjects[1:]]
    purge_objects(session, workspace_id, audit_prefix(workspace_id, audit_id), *prefixes)
