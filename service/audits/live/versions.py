"""What a poller can see of an audit, as an entity tag, read without its summary.

Renewing a lease changes none of it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.http.conditional.etags import weak_tag
from service.lifecycle.transitions import State
from service.principal import Principal
from service.scoping import owned
from service.store.tables import Audit, AuditEvent, Job

_AUDIT = (
    "id",
    "step_key",
    "stage",
    "progress_done",
    "progress_total",
    "progress_unit",
    "eta_at",
    "published_attempt",  # the summary comes and goes with it
)
_JOB = ("id", "state", "attempt", "started_at", "finished_at", "cancel_requested_at", "error")


@dataclass(frozen=True)
class Version:
    """Of one audit, at one time."""

    tag: str
    last_event: int
    """Its number; 0: none."""


def tag_of(audit: Audit, job: Job) -> str:
    """The audit's entity tag. Weak, since the seconds of its ETA are told from now."""
    return weak_tag(*(getattr(audit, name) for name in _AUDIT), *(getattr(job, name) for name in _JOB))


def find_tag(session: Session, principal: Principal, audit_id: str) -> tuple[str, State]:
    """Read the tag and the state of one audit.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.

    Raises:
        NotFoundError: `audit_not_found`.
    """
    query = _select().where(owned(Audit, principal), Audit.id == audit_id)
    found = session.execute(query).one_or_none()
    if found is None:
        raise NotFoundError("audit")
    return weak_tag(*found), State(found.state)


def read_versions(session: Session, audit_ids: Collection[str]) -> Mapping[str, Version]:
    """Of audits in any workspace, by id; those that do not exist are left out."""
    last = select(func.max(AuditEvent.seq)).where(AuditEvent.audit_id == Audit.id).scalar_subquery()
    rows = session.execute(_select().add_columns(last).where(Audit.id.in_(audit_ids)))
    return {row[0]: Version(tag=weak_tag(*row[:-1]), last_event=row[-1] or 0) for row in rows}


def _select():  # type: ignore[no-untyped-def]
    columns = [*(getattr(Audit, name) for name in _AUDIT), *(getattr(Job, name) for name in _JOB)]
    return select(*columns).join(Job, (Job.workspace_id == Audit.workspace_id) & (Job.id == Audit.job_id))
