"""Everything that changes a job. Each command takes a Session inside an open transaction and never commits.

Commands lock the job's row first, so that they follow one another; a worker's commands find the row by
(id, attempt, owner) and do nothing, returning False, once it is no longer that worker's or its lease has run out. What
may follow what is in transitions.py. Times are the database's.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.contract.failure import ErrorCode, Failure
from service.contract.protocol import ProgressEvent
from service.contract.results import Summary
from service.contract.spec import COMBINE, TrainingConfig, train_step_key
from service.lifecycle import transitions
from service.lifecycle.holding import Claim, first, held, locked
from service.lifecycle.record import (
    Level,
    add_job,
    append_event,
    append_state,
    life_of,
    now,
    start_progress,
    write_life,
    write_stage,
)
from service.lifecycle.transitions import HELD, MAX_FAILURES, Life, State
from service.settings import CANCEL_SECONDS, LEASE_SECONDS, RETRY_SECONDS, Lane
from service.store.counters import Counted, count
from service.store.ids import new_id
from service.store.tables import Audit, AuditData, AuditProbe, AuditStep, Job

AGAIN = {
    "audit": "Then retry the audit: it goes on where it was.",
    "export": "Then ask for the export again.",
    "dataset": "The dataset is as good as before; only its near-duplicates are not counted.",
}
"""What to do after a failure, by kind of job."""


def lease_lost(kind: str) -> Failure:
    """Why a job of that kind has failed whose worker is gone."""
    return Failure(
        code=ErrorCode.LEASE_LOST,
        message="The worker was not heard of any more.",
        hint="See whether workers run, and why the last one ended: its log, its machine's memory, its way to the "
        f"database. {AGAIN[kind]}",
    )


class NotEndedError(Exception):
    """It is queued or runs, so it cannot be deleted: `state` is which."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.state = state


class NotRetryableError(Exception):
    """The audit cannot be tried again: `state` is why."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.state = state


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
    request_id: str | None = None,
) -> Audit:
    """Writes an audit with its probes, its steps, its queued job and its first event.

    One step trains with each of the `seeds` seeds training.seed, training.seed + 1, ...; the last one combines them.
    Raises sqlalchemy.exc.IntegrityError if the dataset, a probe or the model is not the workspace's.
    """
    audit_id = new_id("aud")
    job = add_job(session, kind="audit", subject_id=audit_id, workspace_id=workspace_id, request_id=request_id)
    session.add(AuditData(audit_id=audit_id, workspace_id=workspace_id))
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
    session.refresh(job)
    append_state(session, job, "Queued.")
    return audit


def step_keys(seed: int, seeds: int) -> list[str]:
    """The steps of an audit in the order in which they run: training with `seeds` seeds from `seed` on, combining."""
    return [*(train_step_key(seed + number) for number in range(seeds)), COMBINE]


# ---------------------------------------------------------------- a worker's commands


def claim(session: Session, *, lane: Lane, owner: str, lease_seconds: float = LEASE_SECONDS) -> Claim | None:
    """Takes the oldest due job of the lane for `owner`, or None where none is due.

    `owner` names one process for good (a restarted worker is another owner). It has the job for `lease_seconds`, and
    longer with every `renew`.
    """
    found = first(
        session,
        locked(skip_locked=True)
        .where(Job.state == State.QUEUED, Job.lane == lane, Job.next_attempt_at <= now())
        .order_by(Job.next_attempt_at, Job.id)
        .limit(1),
    )
    if found is None:
        return None
    job, at = found
    life = transitions.claim(life_of(job), owner=owner, now=at, lease=timedelta(seconds=lease_seconds))
    if life is None:
        return None
    job.started_at = at
    write_life(session, job, life)
    start_progress(session, job)
    append_state(session, job, f"Attempt {job.attempt} started.")
    return Claim(
        job_id=job.id,
        kind=job.kind,
        subject_id=job.subject_id,
        workspace_id=job.workspace_id,
        attempt=job.attempt,
        owner=owner,
        request_id=job.request_id,
    )


def renew(session: Session, claim: Claim, *, lease_seconds: float = LEASE_SECONDS) -> float | None:
    """Keeps the job for `lease_seconds` from now, but no longer than it was where a cancel is under way.

    Returns the seconds that are left, counted from this statement; None: fenced.
    """
    found = held(session, claim)
    if found is None:
        return None
    job, at = found
    life = transitions.renew(life_of(job), claim.hold, now=at, lease=timedelta(seconds=lease_seconds))
    if life is None or life.lease_expires_at is None:
        return None
    write_life(session, job, life)
    return (life.lease_expires_at - at).total_seconds()


def cancel_requested(session: Session, claim: Claim) -> bool:
    """Whether the worker should stop: a user asked for it, or the job is no longer this claim's."""
    state = session.scalar(
        select(Job.state).where(Job.id == claim.job_id, Job.attempt == claim.attempt, Job.owner == claim.owner)
    )
    return state != State.RUNNING


def record_progress(session: Session, claim: Claim, event: ProgressEvent) -> bool:
    """Shows how far an audit is; a new stage is an event too. False: fenced."""
    found = held(session, claim)
    if found is None:
        return False
    job, _ = found
    stage = session.scalar(select(Audit.stage).where(Audit.id == job.subject_id))
    write_stage(session, job, event)
    if stage != event.stage:
        append_event(
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
    found = held(session, claim)
    if found is None:
        return False
    job, _ = found
    append_event(session, job, level=level, type=type, message=message, data=data)
    return True


def start_step(session: Session, claim: Claim, step_key: str, spec_sha256: str) -> bool:
    """Notes that a child starts on the step. False: fenced. Raises LookupError for a step the audit does not have."""
    found = held(session, claim)
    if found is None:
        return False
    job, _ = found
    step = _step(session, job, step_key)
    step.state = "running"
    step.spec_sha256 = spec_sha256
    step.attempt = job.attempt
    step.started_at = now()
    step.finished_at = None
    session.execute(update(Audit).where(Audit.id == job.subject_id).values(step_key=step_key))
    session.flush()
    steps = session.scalar(select(func.count()).where(AuditStep.audit_id == job.subject_id))
    append_event(
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
    found = held(session, claim)
    if found is None:
        return False
    job, _ = found
    step = _step(session, job, step_key)
    step.state = "succeeded" if succeeded else "failed"
    step.finished_at = now()
    session.flush()
    return True


def succeed(session: Session, claim: Claim) -> Job | None:
    """Ends the job as succeeded, for a command that makes its result public in the same transaction.

    None, and nothing changes: fenced, or a cancel came first.
    """
    found = held(session, claim)
    if found is None:
        return None
    job, at = found
    life = transitions.succeed(life_of(job), claim.hold, now=at)
    if life is None:
        return None
    write_life(session, job, life)
    count(session, Counted.ATTEMPTS, "published")
    return job


def publish(session: Session, claim: Claim, summary: Summary) -> bool:
    """Makes this attempt's scores, findings and summary public and ends the job, all in one flip.

    False, and nothing changes: fenced, or a cancel came first.
    """
    job = succeed(session, claim)
    if job is None:
        return False
    session.execute(
        update(Audit)
        .where(Audit.id == job.subject_id)
        .values(published_attempt=job.attempt, summary=summary.model_dump(mode="json"))
    )
    append_state(session, job, f"Finished: {summary.flagged} of {summary.rows} samples flagged.")
    return True


def fail(
    session: Session,
    claim: Claim,
    failure: Failure,
    *,
    retry: bool = False,
    retry_seconds: float = RETRY_SECONDS,
) -> bool:
    """Ends the attempt: the job has failed, or with `retry` waits for the next attempt while it has failures left.

    A job whose cancel had been asked for is cancelled. False: fenced.
    """
    found = held(session, claim)
    if found is None:
        return False
    job, at = found
    backoff = timedelta(seconds=retry_seconds)
    life = transitions.fail(life_of(job), claim.hold, now=at, retry=retry, backoff=backoff)
    if life is None:
        return False
    _write_failure(session, job, life, failure, at)
    return True


def cancelled(session: Session, claim: Claim) -> bool:
    """Ends the job as cancelled. False: fenced, or nobody asked for a cancel."""
    found = held(session, claim)
    if found is None:
        return False
    job, at = found
    life = transitions.confirm_cancel(life_of(job), claim.hold, now=at)
    if life is None:
        return False
    write_life(session, job, life)
    count(session, Counted.ATTEMPTS, "cancelled")
    append_state(session, job, "Cancelled.")
    return True


def release(session: Session, claim: Claim) -> bool:
    """Gives the job back, queued, as a worker that has to end does; a cancel asked for is a cancel. False: fenced."""
    found = held(session, claim)
    if found is None:
        return False
    job, at = found
    life = transitions.release(life_of(job), claim.hold, now=at)
    if life is None:
        return False
    count(session, Counted.ATTEMPTS, "released")
    _write_return(session, job, life, "The worker was stopped; queued again.", level="info")
    return True


# ---------------------------------------------------------------- commands of users


def request_cancel(
    session: Session, *, workspace_id: str, audit_id: str, within_seconds: float = CANCEL_SECONDS
) -> Job:
    """Asks for the audit to stop: at once where no worker has it; a finished one stays as it is. Idempotent.

    Its worker has `within_seconds` for that, and loses the job then. Raises LookupError if the workspace has no such
    audit.
    """
    job, at = current_job(session, workspace_id, audit_id)
    stop(session, job, at, within_seconds=within_seconds)
    return job


def stop(session: Session, job: Job, at: datetime, *, within_seconds: float) -> None:
    """Writes down that a user wants the locked job to stop; one that has ended stays as it is."""
    life = transitions.request_cancel(life_of(job), now=at, within=timedelta(seconds=within_seconds))
    if life is None:
        return
    job.cancel_requested_at = at
    write_life(session, job, life)
    append_state(session, job, "Cancelled before it started." if life.state is State.CANCELLED else "Cancel requested.")


def retry_audit(session: Session, *, workspace_id: str, audit_id: str, request_id: str | None = None) -> Job:
    """Queues a failed or cancelled audit again; one that is queued or runs is left as it is. Idempotent.

    What is tried again is another job: the old one stays as it ended. Raises LookupError if the workspace has no such
    audit, and NotRetryableError where it has succeeded or is just being cancelled.
    """
    job, at = current_job(session, workspace_id, audit_id)
    state = State(job.state)
    if state in (State.QUEUED, State.RUNNING):
        return job
    life = transitions.follow_up(life_of(job), now=at)
    if life is None:
        raise NotRetryableError(state)
    again = add_job(session, kind=job.kind, subject_id=audit_id, workspace_id=workspace_id, request_id=request_id)
    write_life(session, again, life)
    session.execute(update(Audit).where(Audit.id == audit_id).values(job_id=again.id))
    session.execute(
        update(AuditStep).where(AuditStep.audit_id == audit_id, AuditStep.state == "failed").values(state="pending")
    )
    session.refresh(again)
    append_state(session, again, "Queued again by a user.")
    return again


# ---------------------------------------------------------------- commands of those who look after jobs


def expire_one(session: Session, *, retry_seconds: float = RETRY_SECONDS) -> Job | None:
    """Takes one job back whose lease has run out: queued again, failed, or cancelled. None where there is none.

    Passes over jobs that somebody else is just writing.
    """
    found = first(
        session,
        locked(skip_locked=True).where(Job.lease_expires_at <= now()).order_by(Job.lease_expires_at, Job.id).limit(1),
    )
    if found is None:
        return None
    job, at = found
    life = transitions.expire(life_of(job), now=at, backoff=timedelta(seconds=retry_seconds))
    if life is None:
        return None
    if life.state is State.CANCELLED:
        count(session, Counted.ATTEMPTS, ErrorCode.LEASE_LOST)
        _write_return(session, job, life, "", level="warning")
    else:
        _write_failure(session, job, life, lease_lost(job.kind), at)
    return job


def requeue_orphans(session: Session) -> int:
    """Frees every job that a worker holds; call it only while no worker can be alive. Returns how many there were."""
    found = session.execute(
        locked().where(Job.state.in_(sorted(HELD))).order_by(Job.id).execution_options(populate_existing=True)
    ).all()
    for job, _ in found:
        life = transitions.give_back(life_of(job))
        assert life is not None
        _write_return(session, job, life, "The worker is gone; queued again.", level="warning")
    return len(found)


# ---------------------------------------------------------------- what they share


def current_job(session: Session, workspace_id: str, audit_id: str) -> tuple[Job, datetime]:
    """The audit's newest job, locked, with the time. Raises LookupError."""
    # Not locked: a worker's commands lock the job first and then its audit, and two orders would meet in a deadlock.
    newest = select(Audit.job_id).where(Audit.workspace_id == workspace_id, Audit.id == audit_id)
    while True:
        job_id = session.scalar(newest)
        found = first(session, locked().where(Job.id == job_id))
        if found is None:
            raise LookupError(audit_id)
        if session.scalar(newest) == job_id:
            return found


def _write_failure(session: Session, job: Job, life: Life, failure: Failure, at: datetime) -> None:
    write_life(session, job, life)
    count(session, Counted.ATTEMPTS, failure.code)
    error = failure.model_dump(mode="json")
    if life.state is State.QUEUED:
        seconds = (life.next_attempt_at - at).total_seconds()
        message = f"{failure.message} Tried again in {seconds:.0f} s ({life.failures} of {MAX_FAILURES} failures)."
        append_state(session, job, message, level="warning", data=error)
        return
    if life.state is State.FAILED:
        job.error = error
        session.flush()
    append_state(session, job, failure.message, level="error", data=error)


def _write_return(session: Session, job: Job, life: Life, message: str, *, level: Level) -> None:
    write_life(session, job, life)
    if life.state is State.CANCELLED:
        append_state(session, job, "Cancelled.")
    else:
        append_state(session, job, message, level=level)


def _step(session: Session, job: Job, step_key: str) -> AuditStep:
    step = session.get(AuditStep, (job.subject_id, step_key), populate_existing=True)
    if step is None:
        raise LookupError(f"audit {job.subject_id} has no step {step_key!r}")
    return step
