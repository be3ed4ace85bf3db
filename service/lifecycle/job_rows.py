"""Writes what happens to a job: its row, the progress of its subject, an audit's steps and events.

For the lifecycle alone. Its callers have locked the job's row. Times are the database's.
"""

from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, DateTime, Interval, func, literal, select, update
from sqlalchemy.orm import Session

from service.contract.protocol import ProgressEvent, Stage
from service.lifecycle.transitions import TERMINAL, JobSnapshot, State
from service.settings import Lane
from service.store.ids import new_id
from service.store.tables import Audit, AuditEvent, AuditStep, Export, Job

Level = Literal["info", "warning", "error"]


SHOWING_PROGRESS: dict[str, type[Audit] | type[Export]] = {"audit": Audit, "export": Export}
"""The tables that show how far a job is, by its kind."""


LANES: dict[str, Lane] = {"audit": "gpu", "export": "io", "dataset": "io", "version": "io"}
"""Where a job of each kind runs."""


Priority = Literal["low", "normal", "high"]
"""Which of a workspace's own waiting audits go first; other workspaces' turns are not changed by it."""

PRIORITIES: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}
"""The numbers by which `jobs.priority` holds them; the smallest is served first."""


def priority_of(job: Job) -> Priority:
    """The name of the job's priority."""
    return next(name for name, value in PRIORITIES.items() if value == job.priority)


def add_job(
    session: Session,
    *,
    kind: str,
    subject_id: str,
    workspace_id: str,
    request_id: str | None,
    priority: Priority = "normal",
) -> Job:
    """Add a queued job to the session, without flushing it.

    Args:
        session: An open transaction.
        kind: What is done: a key of LANES.
        subject_id: Id of the audit, export, dataset or version that it is about.
        workspace_id: Id of the workspace.
        request_id: Id of the request that asks for it, for the logs; None without one.
        priority: Which of the workspace's jobs are taken first.
    """
    job = Job(
        id=new_id("job"),
        workspace_id=workspace_id,
        kind=kind,
        subject_id=subject_id,
        lane=LANES[kind],
        request_id=request_id,
        priority=PRIORITIES[priority],
    )
    session.add(job)
    return job


def now() -> ColumnElement[datetime]:
    """The database's clock at this statement: a transaction that copied scores for a minute ends when it ends."""
    return func.statement_timestamp(type_=DateTime(timezone=True))


def read_snapshot(job: Job) -> JobSnapshot:
    """Return a job as its row says."""
    return JobSnapshot(
        state=State(job.state),
        attempt=job.attempt,
        owner=job.owner,
        lease_expires_at=job.lease_expires_at,
        next_attempt_at=job.next_attempt_at,
        failures=job.failures,
    )


def write_snapshot(session: Session, job: Job, snapshot: JobSnapshot) -> None:
    """Write a job's new state to its row, and to its subject what follows from the state alone.

    Args:
        session: An open transaction.
        job: The row of the job, locked.
        snapshot: The job as it is from now on.
    """
    left = State(job.state) if job.state is not None else State.QUEUED
    job.state = snapshot.state
    job.attempt = snapshot.attempt
    job.owner = snapshot.owner
    job.lease_expires_at = snapshot.lease_expires_at
    job.next_attempt_at = snapshot.next_attempt_at
    job.failures = snapshot.failures
    if snapshot.state in TERMINAL:
        # In the same statement: a CHECK holds them together.
        job.finished_at = now()
    session.flush()
    if snapshot.state is left:
        return
    if snapshot.state not in TERMINAL and snapshot.state is not State.QUEUED:
        return
    stage: dict[str, Any] = {}
    if job.kind == "audit":
        ended = {"state": "failed", "finished_at": now()} if snapshot.state in TERMINAL else {"state": "pending"}
        session.execute(
            update(AuditStep).where(AuditStep.audit_id == job.subject_id, AuditStep.state == "running").values(ended)
        )
        stage = {"step_key": None, "stage": None}
    nothing = dict.fromkeys(("progress_done", "progress_total", "progress_unit", "eta_at"))
    _write_subject(session, job, **nothing, **stage)


def start_progress(session: Session, job: Job) -> None:
    """Show that an attempt has begun.

    Args:
        session: An open transaction.
        job: The row of the job, locked.
    """
    if job.kind == "audit":
        write_stage(session, job, ProgressEvent(stage=Stage.PREPARING, done=0))
    else:
        write_progress(session, job, done=0)


def write_stage(session: Session, job: Job, event: ProgressEvent) -> None:
    """Show which stage an audit is in, and how far.

    Args:
        session: An open transaction.
        job: The row of the job, locked.
        event: What the child reported.
    """
    write_progress(
        session,
        job,
        done=event.done,
        total=event.total,
        unit=event.unit,
        eta_seconds=event.eta_seconds,
        stage=event.stage,
    )


def write_progress(
    session: Session,
    job: Job,
    *,
    done: int,
    total: int | None = None,
    unit: str = "",
    eta_seconds: float | None = None,
    **more: Any,
) -> None:
    """Show how far the job's subject is, if subjects of its kind show that.

    Args:
        session: An open transaction.
        job: The row of the job, locked.
        done: How many units are done.
        total: How many units there are; None: not known.
        unit: What is counted, in the plural.
        eta_seconds: Estimated seconds until the end; None: not known.
        **more: Further columns of the subject, and their values.
    """
    eta = None if eta_seconds is None else now() + literal(timedelta(seconds=eta_seconds), Interval())
    _write_subject(
        session,
        job,
        progress_done=done,
        progress_total=total,
        progress_unit=unit,
        eta_at=eta,
        progressed_at=now(),
        **more,
    )


def _write_subject(session: Session, job: Job, **values: Any) -> None:
    table = SHOWING_PROGRESS.get(job.kind)
    if table is not None:
        session.execute(update(table).where(table.id == job.subject_id).values(values))


def append_state(
    session: Session, job: Job, message: str, *, level: Level = "info", data: dict[str, Any] | None = None
) -> None:
    """Append the event that tells users of an audit's new state; jobs of other kinds have no events.

    Args:
        session: An open transaction.
        job: The row of the job, locked.
        message: A sentence for users.
        level: How serious it is.
        data: Values for programs, beside the state.
    """
    append_event(session, job, level=level, type="state", message=message, data={"state": job.state, **(data or {})})


def append_event(
    session: Session, job: Job, *, level: Level, type: str, message: str, data: dict[str, Any] | None
) -> None:
    """Append an event to those of an audit; jobs of other kinds have no events.

    Args:
        session: An open transaction.
        job: The row of the job, locked or new, so that the next number is free.
        level: How serious it is.
        type: What kind of event it is.
        message: A sentence for users.
        data: Values for programs; None: none.
    """
    if job.kind != "audit":
        return
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
