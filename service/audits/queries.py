"""Reading audits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Row, Select, bindparam, func, or_, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session, defer
from sqlalchemy.orm.interfaces import ORMOption

from service.audits.schemas import Audit, AuditSummary, Progress, Step
from service.contract.failure import Failure
from service.contract.protocol import Stage
from service.contract.results import Summary
from service.contract.spec import TrainingConfig
from service.errors import ConflictError, NotFoundError
from service.lifecycle.audits import step_keys
from service.lifecycle.job_rows import priority_of
from service.lifecycle.transitions import HELD, TERMINAL, State
from service.principal import Principal
from service.scoping import scoped
from service.settings import Settings
from service.store.newest_first import newest_first
from service.store.score_lists import PublishedAudit, published_lists
from service.store.tables import Audit as AuditTable
from service.store.tables import AuditEvent, AuditProbe, Dataset, Export, Job, Model, Probe
from service.workers.schemas import Waiting
from service.workers.waiting import read_waiting

AuditRow = Row[AuditTable, Job, datetime, list[str]]
"""An audit, its job, the database's clock, and the ids of its probes in their order."""


def select_audits(principal: Principal) -> Select[AuditTable, Job, datetime, list[str]]:
    """Select the workspace's audits, each with its job, the database's clock and its probes' ids."""
    probe_ids = (
        select(func.array_agg(aggregate_order_by(AuditProbe.probe_id, AuditProbe.probe_no)))
        .where(AuditProbe.audit_id == AuditTable.id)
        .correlate(AuditTable)
        .scalar_subquery()
    )
    return (
        scoped(AuditTable, principal)
        .add_columns(Job, func.now(), probe_ids)
        .join(Job, (Job.workspace_id == AuditTable.workspace_id) & (Job.id == AuditTable.job_id))
    )


def find_audit(session: Session, principal: Principal, audit_id: str, options: Sequence[ORMOption] = ()) -> AuditRow:
    """Read one audit.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.
        options: How its row is loaded.

    Raises:
        NotFoundError: `audit_not_found`.
    """
    query = select_audits(principal).where(AuditTable.id == audit_id).options(*options)
    found = session.execute(query).one_or_none()
    if found is None:
        raise NotFoundError("audit")
    return found


def find_state(session: Session, principal: Principal, audit_id: str) -> State:
    """Read the state of one audit.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.

    Raises:
        NotFoundError: `audit_not_found`.
    """
    state = session.scalar(
        select(Job.state)
        .join(AuditTable, (AuditTable.workspace_id == Job.workspace_id) & (AuditTable.job_id == Job.id))
        .where(AuditTable.workspace_id == principal.workspace_id, AuditTable.id == audit_id)
    )
    if state is None:
        raise NotFoundError("audit")
    return State(state)


def list_events(session: Session, audit_id: str, *, after: int, limit: int) -> list[AuditEvent]:
    """Read the events of an audit behind one of them, the oldest first.

    Args:
        session: An open transaction.
        audit_id: Id of the audit.
        after: Number of the event before the first; 0: from the beginning.
        limit: How many to read at most.
    """
    query = select(AuditEvent).where(AuditEvent.audit_id == audit_id, AuditEvent.seq > after)
    return list(session.scalars(query.order_by(AuditEvent.seq).limit(limit)))


def find_succeeded(
    session: Session, principal: Principal, audit_id: str, options: Sequence[ORMOption] = ()
) -> AuditTable:
    """Read an audit whose results are published.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.
        options: How its row is loaded.

    Raises:
        NotFoundError: `audit_not_found`.
        ConflictError: `audit_not_finished`.
    """
    audit, job = find_audit(session, principal, audit_id, options)[:2]
    _require_success(job.state)
    return audit


_PUBLISHED = (
    select(
        Job.state,
        AuditTable.id,
        AuditTable.workspace_id,
        AuditTable.dataset_id,
        AuditTable.published_attempt,
        published_lists().label("lists"),
    )
    .join(Job, (Job.workspace_id == AuditTable.workspace_id) & (Job.id == AuditTable.job_id))
    .where(AuditTable.workspace_id == bindparam("workspace_id"), AuditTable.id == bindparam("audit_id"))
)


def find_published(session: Session, principal: Principal, audit_id: str) -> PublishedAudit:
    """Read where the published results of an audit are found, without its summary and settings.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.

    Raises:
        NotFoundError: `audit_not_found`.
        ConflictError: `audit_not_finished`.
    """
    asked = {"workspace_id": principal.workspace_id, "audit_id": audit_id}
    found = session.connection().execute(_PUBLISHED, asked).one_or_none()
    if found is None:
        raise NotFoundError("audit")
    _require_success(found.state)
    return PublishedAudit(
        found.id, found.workspace_id, found.dataset_id, attempt=found.published_attempt, lists=tuple(found.lists)
    )


def _require_success(state: str) -> None:
    if state == State.SUCCEEDED:
        return
    if state in TERMINAL:
        detail = f"This audit has {state if state == State.FAILED else 'been cancelled'}: it has no results."
        raise ConflictError("audit_not_finished", f"{detail} Retry it, or start another one.")
    detail = f"This audit is {state}. Its results come when it has succeeded."
    raise ConflictError("audit_not_finished", detail, retry_after=5)


@dataclass(frozen=True)
class AuditFilter:
    """Which audits are wanted; by default all."""

    status: State | None = None
    """Only those in this state."""
    search: str | None = None
    """Only those whose dataset, model or one of whose probes has this in its name, in whatever case."""
    mine: bool = False
    """Only those that whoever asks has created."""


def list_audits(
    session: Session, principal: Principal, wanted: AuditFilter, *, after: str | None, limit: int
) -> list[AuditRow]:
    """Read the workspace's audits, the newest first, without their summaries, which are long.

    Args:
        session: An open transaction.
        principal: Who is asking.
        wanted: Which audits.
        after: Id of the audit behind which to begin; None: at the newest.
        limit: The most that are read.
    """
    query = select_audits(principal).options(defer(AuditTable.summary, raiseload=True))
    if wanted.status is not None:
        query = query.where(Job.state == wanted.status)
    if wanted.mine:
        query = query.where(
            AuditTable.key_id == principal.key_id
            if principal.user_id is None
            else AuditTable.user_id == principal.user_id
        )
    if wanted.search:
        query = query.where(_is_named(wanted.search, principal))
    return list(session.execute(newest_first(query, AuditTable.id, after=after, limit=limit)).all())


def _is_named(text: str, principal: Principal) -> ColumnElement[bool]:
    def with_name(table: type[Dataset] | type[Model] | type[Probe]) -> Select[str]:
        named = table.name.icontains(text, autoescape=True)
        return scoped(table, principal).where(named).with_only_columns(table.id)

    probed = select(AuditProbe.audit_id).where(AuditProbe.probe_id.in_(with_name(Probe)))
    return or_(
        AuditTable.dataset_id.in_(with_name(Dataset)),
        AuditTable.model_id.in_(with_name(Model)),
        AuditTable.id.in_(probed),
    )


def read_places(session: Session, rows: Sequence[AuditRow], settings: Settings) -> dict[str, Waiting]:
    """Read the places in the queue of those audits that are queued.

    Args:
        session: An open transaction.
        rows: The audits.
        settings: Hold the limit of running audits, and how often workers say that they are alive.

    Returns:
        By the audit's id.
    """
    queued = {job.id: audit.id for audit, job, _, _ in rows if job.state == State.QUEUED}
    places = read_waiting(session, "gpu", list(queued), settings)
    return {queued[job_id]: waiting for job_id, waiting in places.items()}


def show_audit(session: Session, principal: Principal, audit_id: str, settings: Settings) -> Audit:
    """Read one audit as the API shows it.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.
        settings: As for `read_places`.

    Raises:
        NotFoundError: `audit_not_found`.
    """
    found = find_audit(session, principal, audit_id)
    return render_audit(found, read_places(session, [found], settings).get(audit_id))


def render_audit(found: AuditRow, waiting: Waiting | None = None) -> Audit:
    """Show the audit with its summary and, if it is queued, its place.

    Args:
        found: The audit as a query of this module returned it.
        waiting: Its place in the queue; None: it does not wait, or it is not shown.
    """
    audit = found[0]
    summary = None if audit.summary is None else Summary.model_validate(audit.summary)
    return Audit(**dict(render_audit_summary(found, waiting)), summary=summary)


def render_audit_summary(found: AuditRow, waiting: Waiting | None = None) -> AuditSummary:
    """Show the audit without its summary, as lists do.

    Args:
        found: The audit as a query of this module returned it.
        waiting: Its place in the queue; None: it does not wait, or it is not shown.
    """
    audit, job, now, probe_ids = found
    held = job.state in HELD
    return AuditSummary(
        id=audit.id,
        status=State(job.state),
        step=_step(audit) if held else None,
        stage=Stage(audit.stage) if held and audit.stage is not None else None,
        progress=render_progress(audit, now) if held else None,
        attempt=job.attempt,
        created_at=audit.created_at,
        key_id=audit.key_id,
        user_id=audit.user_id,
        started_at=job.started_at,
        finished_at=job.finished_at,
        cancel_requested_at=job.cancel_requested_at,
        dataset_id=audit.dataset_id,
        probe_ids=probe_ids,
        model_id=audit.model_id,
        training=TrainingConfig.model_validate(audit.training),
        seeds=audit.seeds,
        q=audit.q,
        group_column=audit.group_column,
        trusted_column=audit.trusted_column,
        priority=priority_of(job),
        waiting=waiting,
        error=None if job.error is None else Failure.model_validate(job.error),
    )


def _step(audit: AuditTable) -> Step | None:
    if audit.step_key is None:
        return None
    keys = step_keys(audit.training["seed"], audit.seeds)
    return Step(key=audit.step_key, number=keys.index(audit.step_key) + 1, of=len(keys))


def render_progress(subject: AuditTable | Export, now: datetime) -> Progress | None:
    """Show how far the subject of a job is; None before it has begun.

    Args:
        subject: The row of the audit or export.
        now: The database's time.
    """
    if subject.progress_done is None:
        return None
    eta = subject.eta_at
    return Progress(
        done=subject.progress_done,
        total=subject.progress_total,
        unit=subject.progress_unit or "",
        eta=eta,
        eta_seconds=None if eta is None else max(0.0, (eta - now).total_seconds()),
    )
