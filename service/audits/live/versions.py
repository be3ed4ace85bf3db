"""What a poller can see of an audit, as an entity tag, read without its summary.

Renewing a lease changes none of it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.http.conditional.etags import weak_tag
from service.lifecycle.transitions import State
from service.principal import Principal
from service.scoping import owned
from service.settings import Settings
from service.store.tables import Audit, AuditEvent, Job
from service.workers.schemas import Waiting
from service.workers.waiting import read_waiting

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
    """What a client compares to see whether an audit has changed."""

    tag: str
    last_event: int
    """Number of the audit's last event; 0: it has none."""


def tag_of(audit: Audit, job: Job, waiting: Waiting | None) -> str:
    """Return the audit's entity tag; weak, since an ETA counts from now and a start in the queue is only expected.

    Args:
        audit: The row of the audit.
        job: The row of its newest job.
        waiting: Its place in the queue; None: it does not wait.
    """
    shown = (*(getattr(audit, name) for name in _AUDIT), *(getattr(job, name) for name in _JOB))
    return weak_tag(*shown, *_place(waiting))


def find_tag(session: Session, principal: Principal, audit_id: str, settings: Settings) -> tuple[str, State]:
    """Read the tag and the state of one audit.

    Args:
        session: An open transaction.
        principal: Who asks.
        audit_id: Id of the audit.
        settings: Say how its place in the queue is shown.

    Returns:
        The entity tag and the state.

    Raises:
        NotFoundError: `audit_not_found`.
    """
    query = _select().where(owned(Audit, principal), Audit.id == audit_id)
    found = session.execute(query).one_or_none()
    if found is None:
        raise NotFoundError("audit")
    place = _places(session, [found], settings).get(audit_id)
    return weak_tag(*found, *_place(place)), State(found.state)


def read_versions(session: Session, audit_ids: Collection[str], settings: Settings) -> Mapping[str, Version]:
    """Read the versions of audits in any workspace, by id; those that do not exist are left out.

    Args:
        session: An open transaction.
        audit_ids: Ids of the audits.
        settings: Say how a place in the queue is shown.
    """
    last = select(func.max(AuditEvent.seq)).where(AuditEvent.audit_id == Audit.id).scalar_subquery()
    rows = session.execute(_select().add_columns(last).where(Audit.id.in_(audit_ids))).all()
    places = _places(session, rows, settings)
    return {
        row[0]: Version(tag=weak_tag(*row[:-1], *_place(places.get(row[0]))), last_event=row[-1] or 0) for row in rows
    }


def _places(session: Session, rows: Iterable[Sequence[Any]], settings: Settings) -> dict[str, Waiting]:
    """By audit: what a poller sees of the queue."""
    state, job_id = len(_AUDIT) + _JOB.index("state"), len(_AUDIT) + _JOB.index("id")
    queued = {row[job_id]: row[0] for row in rows if row[state] == State.QUEUED}
    places = read_waiting(session, "gpu", list(queued), settings)
    return {queued[found]: waiting for found, waiting in places.items()}


def _place(waiting: Waiting | None) -> tuple[int | str | None, ...]:
    return () if waiting is None else (waiting.position, waiting.reason)


def _select():  # type: ignore[no-untyped-def]
    columns = [*(getattr(Audit, name) for name in _AUDIT), *(getattr(Job, name) for name in _JOB)]
    return select(*columns).join(Job, (Job.workspace_id == Audit.workspace_id) & (Job.id == Audit.job_id))
