"""Reading audits."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Row, Select, bindparam, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session, defer
from sqlalchemy.orm.interfaces import ORMOption

from service.audits.schemas import Audit, AuditSummary, Progress, Step
from service.contract.failure import Failure
from service.contract.protocol import Stage
from service.contract.results import Summary
from service.contract.spec import TrainingConfig
from service.http.auth.principal import Principal
from service.http.auth.scoping import not_found, scoped
from service.http.problems.problem import Problem
from service.lifecycle.audits import step_keys
from service.lifecycle.transitions import HELD, TERMINAL, State
from service.store.score_lists import PublishedAudit, published_lists
from service.store.tables import Audit as AuditTable
from service.store.tables import AuditEvent, AuditProbe, Export, Job

Found = Row[AuditTable, Job, datetime, list[str]]
"""An audit, its job, the database's clock, and the ids of its probes in their order."""


def select_audits(principal: Principal) -> Select[AuditTable, Job, datetime, list[str]]:
    """The workspace's audits, each with its job, the database's clock and its probes' ids."""
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


def find_audit(session: Session, principal: Principal, audit_id: str, options: Sequence[ORMOption] = ()) -> Found:
    """One audit, read with `options`. Raises Problem 404 `audit_not_found`."""
    query = select_audits(principal).where(AuditTable.id == audit_id).options(*options)
    found = session.execute(query).one_or_none()
    if found is None:
        raise not_found("audit")
    return found


def find_state(session: Session, principal: Principal, audit_id: str) -> State:
    """The state of one audit. Raises Problem 404 `audit_not_found`."""
    state = session.scalar(
        select(Job.state)
        .join(AuditTable, (AuditTable.workspace_id == Job.workspace_id) & (AuditTable.job_id == Job.id))
        .where(AuditTable.workspace_id == principal.workspace_id, AuditTable.id == audit_id)
    )
    if state is None:
        raise not_found("audit")
    return State(state)


def list_events(session: Session, audit_id: str, *, after: int, limit: int) -> list[AuditEvent]:
    """Oldest first."""
    query = select(AuditEvent).where(AuditEvent.audit_id == audit_id, AuditEvent.seq > after)
    return list(session.scalars(query.order_by(AuditEvent.seq).limit(limit)))


def find_succeeded(
    session: Session, principal: Principal, audit_id: str, options: Sequence[ORMOption] = ()
) -> AuditTable:
    """An audit whose results are public, read with `options`. Raises Problem 404, or 409 `audit_not_finished`."""
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
    """The same, and no more of it than its results are found by. Raises as `find_succeeded` does."""
    asked = {"workspace_id": principal.workspace_id, "audit_id": audit_id}
    found = session.connection().execute(_PUBLISHED, asked).one_or_none()
    if found is None:
        raise not_found("audit")
    _require_success(found.state)
    return PublishedAudit(
        found.id, found.workspace_id, found.dataset_id, attempt=found.published_attempt, lists=tuple(found.lists)
    )


def _require_success(state: str) -> None:
    if state == State.SUCCEEDED:
        return
    if state in TERMINAL:
        detail = f"This audit has {state if state == State.FAILED else 'been cancelled'}: it has no results."
        raise Problem(409, "audit_not_finished", f"{detail} Retry it, or start another one.")
    detail = f"This audit is {state}. Its results come when it has succeeded."
    raise Problem(409, "audit_not_finished", detail, headers={"Retry-After": "5"})


def list_audits(
    session: Session, principal: Principal, *, status: State | None, after: str | None, limit: int
) -> list[Found]:
    """Newest first, without summaries, which are long."""
    query = select_audits(principal).options(defer(AuditTable.summary, raiseload=True))
    if status is not None:
        query = query.where(Job.state == status)
    if after is not None:
        query = query.where(AuditTable.id < after)
    return list(session.execute(query.order_by(AuditTable.id.desc()).limit(limit)).all())


def render_audit(found: Found) -> Audit:
    """The audit with its summary."""
    audit = found[0]
    summary = None if audit.summary is None else Summary.model_validate(audit.summary)
    return Audit(**dict(render_audit_summary(found)), summary=summary)


def render_audit_summary(found: Found) -> AuditSummary:
    """The audit as lists show it."""
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
        error=None if job.error is None else Failure.model_validate(job.error),
    )


def _step(audit: AuditTable) -> Step | None:
    if audit.step_key is None:
        return None
    keys = step_keys(audit.training["seed"], audit.seeds)
    return Step(key=audit.step_key, number=keys.index(audit.step_key) + 1, of=len(keys))


def render_progress(subject: AuditTable | Export, now: datetime) -> Progress | None:
    """How far a job's subject is; None before it has begun."""
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
