"""How an act is written down: the job's row, its audit's progress, its steps and its events. Internal to the lifecycle.

Whoever calls has the job's row locked. Times are the database's.
"""

from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, DateTime, Interval, func, literal, select, update
from sqlalchemy.orm import Session

from service.contract import ProgressEvent
from service.lifecycle.transitions import TERMINAL, Life, State
from service.store.tables import Audit, AuditEvent, AuditStep, Job

Level = Literal["info", "warning", "error"]


def now() -> ColumnElement[datetime]:
    """The database's clock at this statement: a transaction that copied scores for a minute ends when it ends."""
    return func.statement_timestamp(type_=DateTime(timezone=True))


def life_of(job: Job) -> Life:
    """What the row says."""
    return Life(
        state=State(job.state),
        attempt=job.attempt,
        owner=job.owner,
        lease_expires_at=job.lease_expires_at,
        next_attempt_at=job.next_attempt_at,
        failures=job.failures,
    )


def write_life(session: Session, job: Job, life: Life) -> None:
    """Writes what the row says from now on, and what follows from the state alone."""
    left = State(job.state) if job.state is not None else State.QUEUED
    job.state = life.state
    job.attempt = life.attempt
    job.owner = life.owner
    job.lease_expires_at = life.lease_expires_at
    job.next_attempt_at = life.next_attempt_at
    job.failures = life.failures
    if life.state in TERMINAL:
        # In the same statement: a CHECK holds them together.
        job.finished_at = now()
    session.flush()
    if life.state is left:
        return
    if life.state in TERMINAL or life.state is State.QUEUED:
        ended = {"state": "failed", "finished_at": now()} if life.state in TERMINAL else {"state": "pending"}
        session.execute(
            update(AuditStep).where(AuditStep.audit_id == job.subject_id, AuditStep.state == "running").values(ended)
        )
        session.execute(
            update(Audit)
            .where(Audit.id == job.subject_id)
            .values(step_key=None, stage=None, progress_done=None, progress_total=None, progress_unit=None, eta_at=None)
        )


def write_progress(session: Session, job: Job, event: ProgressEvent) -> None:
    """Shows how far the audit is."""
    eta = None if event.eta_seconds is None else now() + literal(timedelta(seconds=event.eta_seconds), Interval())
    session.execute(
        update(Audit)
        .where(Audit.id == job.subject_id)
        .values(
            stage=event.stage,
            progress_done=event.done,
            progress_total=event.total,
            progress_unit=event.unit,
            eta_at=eta,
            progressed_at=now(),
        )
    )


def append_state(
    session: Session, job: Job, message: str, *, level: Level = "info", data: dict[str, Any] | None = None
) -> None:
    """The event that tells users of the job's new state."""
    append_event(session, job, level=level, type="state", message=message, data={"state": job.state, **(data or {})})


def append_event(
    session: Session, job: Job, *, level: Level, type: str, message: str, data: dict[str, Any] | None
) -> None:
    """The job's row is locked, or new, so the number is free."""
    last = session.scalar(select(func.max(AuditEvent.seq)).where(AuditEvent.audit_id == job.subject_id))
    session.add(
        AuditEvent(
            audit_id=job.subject_id,
            seq=(last or 0) + 1,
            workspace_id=job.workspace_id,
            attempt=job.attempt,
            level=level,
            type=type,
            message=message,
            data=data,
        )
    )
    session.flush()
