"""Everything that changes a job. Each command takes a Session inside an open transaction and never commits.

Commands lock the job's row first, so that they follow one another; a worker's commands find the row by
(id, attempt, owner) and do nothing, returning False, once it is no longer that worker's. Times are the database's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, DateTime, Interval, func, literal, select, update
from sqlalchemy.orm import Session

from service.contract import COMBINE, Failure, ProgressEvent, Stage, Summary, TrainingConfig, train_step
from service.lifecycle.transitions import HELD, TERMINAL, Act, State, next_state
from service.store.ids import new_id
from service.store.tables import Audit, AuditEvent, AuditProbe, AuditStep, Job

Level = Literal["info", "warning", "error"]
Lane = Literal["gpu", "io"]


@dataclass(frozen=True)
class Claim:
    """A job as the worker that took it holds it."""

    job_id: str
    kind: str
    subject_id: str
    """The audit's id."""
    workspace_id: str
    attempt: int
    owner: str
    cancel_requested: bool


def create_audit(
    session: Session,
    *,
    workspace_id: str,
    dataset_id: str,
    probe_ids: Sequence[str],
    model_id: str,
    training: TrainingConfig,
    seeds: int = 1,
    q: float,
    group_column: str | None = None,
    trusted_column: str | None = None,
) -> Audit:
    """Writes an audit with its probes, its steps, its queued job and its first event.

    One step trains with each of the `seeds` seeds training.seed, training.seed + 1, ...; the last one combines them.
    Raises sqlalchemy.exc.IntegrityError if the dataset, a probe or the model is not the workspace's.
    """
    audit_id = new_id("aud")
    job = Job(id=new_id("job"), workspace_id=workspace_id, kind="audit", subject_id=audit_id, lane="gpu")
    session.add(job)
    session.flush()
    audit = Audit(
        id=audit_id,
        workspace_id=workspace_id,
        job_id=job.id,
        dataset_id=dataset_id,
        model_id=model_id,
        training=training.model_dump(mode="json"),
        seeds=seeds,
        q=q,
        group_column=group_column,
        trusted_column=trusted_column,
    )
    session.add(audit)
    session.flush()
    for number, probe_id in enumerate(probe_ids, start=1):
        session.add(AuditProbe(audit_id=audit_id, probe_no=number, workspace_id=workspace_id, probe_id=probe_id))
    for number, key in enumerate(step_keys(training.seed, seeds), start=1):
        session.add(AuditStep(audit_id=audit_id, step_key=key, step_no=number, workspace_id=workspace_id))
    session.flush()
    _append_event(session, job, level="info", type="state", message="Queued.", data={"state": State.QUEUED})
    return audit


def step_keys(seed: int, seeds: int) -> list[str]:
    """The steps of an audit in the order in which they run: training with `seeds` seeds from `seed` on, combining."""
    return [*(train_step(seed + number) for number in range(seeds)), COMBINE]


# ---------------------------------------------------------------- a worker's commands


def claim(session: Session, *, lane: str, owner: str) -> Claim | None:
    """Takes the oldest due job of the lane for `owner`, or None where none is due.

    `owner` names one process for good (a restarted worker is another owner).
    """
    job = session.scalars(
        select(Job)
        .where(Job.state == State.QUEUED, Job.lane == lane, Job.next_attempt_at <= _now())
        .order_by(Job.next_attempt_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if job is None:
        return None
    _move(job, Act.CLAIM)
    job.attempt += 1
    job.owner = owner
    job.started_at = _now()
    session.flush()
    _write_progress(session, job, ProgressEvent(stage=Stage.PREPARING, done=0))
    _append_event(
        session,
        job,
        level="info",
        type="state",
        message=f"Attempt {job.attempt} started.",
        data={"state": State.RUNNING},
    )
    return Claim(
        job_id=job.id,
        kind=job.kind,
        subject_id=job.subject_id,
        workspace_id=job.workspace_id,
        attempt=job.attempt,
        owner=owner,
        cancel_requested=job.cancel_requested_at is not None,
    )


def cancel_requested(session: Session, claim: Claim) -> bool:
    """Whether the worker should stop: a user asked for it, or the job is no longer this claim's."""
    state = session.scalar(
        select(Job.state).where(Job.id == claim.job_id, Job.attempt == claim.attempt, Job.owner == claim.owner)
    )
    return state != State.RUNNING


def record_progress(session: Session, claim: Claim, event: ProgressEvent) -> bool:
    """Shows how far the audit is; a new stage is an event too. False: fenced."""
    job = _held(session, claim)
    if job is None:
        return False
    stage = session.scalar(select(Audit.stage).where(Audit.id == job.subject_id))
    _write_progress(session, job, event)
    if stage != event.stage:
        _append_event(
            session,
            job,
            level="info",
            type="stage",
            message=f"{event.stage.capitalize()}.",
            data={"stage": event.stage},
        )
    return True


def record_event(
    session: Session, claim: Claim, *, level: Level, type: str, message: str, data: dict[str, Any] | None = None
) -> bool:
    """Appends to what users read about the audit: `type` is metric or notice, never sample text. False: fenced."""
    job = _held(session, claim)
    if job is None:
        return False
    _append_event(session, job, level=level, type=type, message=message, data=data)
    return True


def start_step(session: Session, claim: Claim, step_key: str, spec_sha256: str) -> bool:
    """Notes that a child starts on the step. False: fenced. Raises LookupError for a step the audit does not have."""
    job = _held(session, claim)
    if job is None:
        return False
    step = _step(session, job, step_key)
    step.state = "running"
    step.spec_sha256 = spec_sha256
    step.attempt = job.attempt
    step.started_at = _now()
    step.finished_at = None
    session.execute(update(Audit).where(Audit.id == job.subject_id).values(step_key=step_key))
    session.flush()
    steps = session.scalar(select(func.count()).where(AuditStep.audit_id == job.subject_id))
    _append_event(
        session,
        job,
        level="info",
        type="step",
        message=f"Step {step.step_no} of {steps}: {step_key}.",
        data={"key": step_key, "number": step.step_no, "of": steps},
    )
    return True


def finish_step(session: Session, claim: Claim, step_key: str, succeeded: bool) -> bool:
    """Notes how the step's child ended. False: fenced. Raises LookupError for a step the audit does not have."""
    job = _held(session, claim)
    if job is None:
        return False
    step = _step(session, job, step_key)
    step.state = "succeeded" if succeeded else "failed"
    step.finished_at = _now()
    session.flush()
    return True


def publish(session: Session, claim: Claim, summary: Summary) -> bool:
    """Makes this attempt's scores, findings and summary public and ends the job, all in one flip.

    False, and nothing changes: fenced, or a cancel came first.
    """
    job = _held(session, claim)
    if job is None or not _move(job, Act.SUCCEED):
        return False
    session.execute(
        update(Audit)
        .where(Audit.id == job.subject_id)
        .values(published_attempt=job.attempt, summary=summary.model_dump(mode="json"))
    )
    message = f"Finished: {summary.flagged} of {summary.rows} samples flagged."
    _end(session, job, level="info", message=message)
    return True


def fail(session: Session, claim: Claim, failure: Failure) -> bool:
    """Ends the job as failed; as cancelled where a cancel had been asked for. False: fenced."""
    job = _held(session, claim)
    if job is None or not _move(job, Act.FAIL):
        return False
    error = failure.model_dump(mode="json")
    if job.state == State.FAILED:
        job.error = error
    _end(session, job, level="error", message=failure.message, data=error)
    return True


def cancelled(session: Session, claim: Claim) -> bool:
    """Ends the job as cancelled. False: fenced, or nobody asked for a cancel."""
    job = _held(session, claim)
    if job is None or not _move(job, Act.CONFIRM_CANCEL):
        return False
    _end(session, job, level="info", message="Cancelled.")
    return True


def release(session: Session, claim: Claim) -> bool:
    """Gives the job back, queued, as a worker that has to end does; a cancel asked for is a cancel. False: fenced."""
    job = _held(session, claim)
    if job is None:
        return False
    _requeue(session, job, level="info", message="The worker was stopped; queued again.")
    return True


# ---------------------------------------------------------------- commands of others


def request_cancel(session: Session, *, workspace_id: str, audit_id: str) -> Job:
    """Asks for the audit to stop: at once where no worker has it; a finished one stays as it is. Idempotent.

    Raises LookupError if the workspace has no such audit.
    """
    job = session.scalars(
        select(Job)
        .where(Job.workspace_id == workspace_id, Job.kind == "audit", Job.subject_id == audit_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if job is None:
        raise LookupError(audit_id)
    if not _move(job, Act.REQUEST_CANCEL):
        return job
    job.cancel_requested_at = _now()
    if job.state == State.CANCELLED:
        _end(session, job, level="info", message="Cancelled before it started.")
    else:
        session.flush()
        _append_event(
            session, job, level="info", type="state", message="Cancel requested.", data={"state": State.CANCELLING}
        )
    return job


def requeue_orphans(session: Session) -> int:
    """Frees every job that a worker holds; call it only while no worker can be alive. Returns how many there were."""
    jobs = session.scalars(
        select(Job)
        .where(Job.state.in_(sorted(HELD)))
        .order_by(Job.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    for job in jobs:
        _requeue(session, job, level="warning", message="The worker is gone; queued again.")
    return len(jobs)


# ---------------------------------------------------------------- what they share


def _now() -> ColumnElement[Any]:
    """The database's clock at this statement: a transaction that copied scores for a minute ends when it ends."""
    return func.statement_timestamp(type_=DateTime(timezone=True))


def _held(session: Session, claim: Claim) -> Job | None:
    """The claim's job, locked, if it is still the claim's."""
    return session.scalars(
        select(Job)
        .where(
            Job.id == claim.job_id,
            Job.attempt == claim.attempt,
            Job.owner == claim.owner,
            Job.state.in_(sorted(HELD)),
        )
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).one_or_none()


def _move(job: Job, act: Act) -> bool:
    """Takes the transition if there is one. The job's row is locked."""
    state = next_state(State(job.state), act)
    if state is None:
        return False
    job.state = state
    if state in TERMINAL:
        # One statement sets both: a CHECK holds them together.
        job.finished_at = _now()
    return True


def _requeue(session: Session, job: Job, *, level: Level, message: str) -> None:
    _move(job, Act.REQUEUE)
    if job.state in TERMINAL:
        _end(session, job, level="info", message="Cancelled.")
        return
    job.owner = None
    session.execute(
        update(AuditStep)
        .where(AuditStep.audit_id == job.subject_id, AuditStep.state == "running")
        .values(state="pending")
    )
    _clear_progress(session, job)
    _append_event(session, job, level=level, type="state", message=message, data={"state": State.QUEUED})


def _step(session: Session, job: Job, step_key: str) -> AuditStep:
    step = session.get(AuditStep, (job.subject_id, step_key), populate_existing=True)
    if step is None:
        raise LookupError(f"audit {job.subject_id} has no step {step_key!r}")
    return step


def _write_progress(session: Session, job: Job, event: ProgressEvent) -> None:
    eta = None if event.eta_seconds is None else _now() + literal(timedelta(seconds=event.eta_seconds), Interval())
    session.execute(
        update(Audit)
        .where(Audit.id == job.subject_id)
        .values(
            stage=event.stage,
            progress_done=event.done,
            progress_total=event.total,
            progress_unit=event.unit,
            eta_at=eta,
            progressed_at=_now(),
        )
    )


def _clear_progress(session: Session, job: Job) -> None:
    session.execute(
        update(Audit)
        .where(Audit.id == job.subject_id)
        .values(step_key=None, stage=None, progress_done=None, progress_total=None, progress_unit=None, eta_at=None)
    )


def _end(session: Session, job: Job, *, level: Level, message: str, data: dict[str, Any] | None = None) -> None:
    """What every terminal state has in common. Steps that still ran have failed."""
    session.flush()
    session.execute(
        update(AuditStep)
        .where(AuditStep.audit_id == job.subject_id, AuditStep.state == "running")
        .values(state="failed", finished_at=_now())
    )
    _clear_progress(session, job)
    _append_event(session, job, level=level, type="state", message=message, data={"state": job.state, **(data or {})})


def _append_event(
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
