"""What changes a job, whatever its kind. Each command takes a Session inside an open transaction and never commits.

Commands lock the job's row first, so that they follow one another; a worker's commands find the row by
(id, attempt, owner) and do nothing, returning False, once it is no longer that worker's or its lease has run out. What
may follow what is in transitions.py. Times are the database's.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contract.failure import NEXT_STEP, ErrorCode, Failure
from service.lifecycle import transitions
from service.lifecycle.claims import Claim, first, held, locked
from service.lifecycle.job_rows import (
    Level,
    append_state,
    now,
    read_snapshot,
    start_progress,
    write_snapshot,
)
from service.lifecycle.transitions import HELD, MAX_FAILURES, JobSnapshot, State
from service.lifecycle.turns import SERVING_ORDER, is_due, note_turn, take_turns, workspaces_in_order
from service.settings import LEASE_SECONDS, RETRY_SECONDS, Lane
from service.store.counters import Counted, count
from service.store.tables import Job


def lease_lost(kind: str) -> Failure:
    """Why a job of that kind has failed whose worker is gone."""
    return Failure(
        code=ErrorCode.LEASE_LOST,
        message="The worker was not heard of any more.",
        hint="See whether workers run, and why the last one ended: its log, its machine's memory, its way to the "
        f"database. {NEXT_STEP[kind]}",
    )


class NotEndedError(Exception):
    """The job is queued or runs, as `state` says, so what it is about cannot be deleted."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.state = state


def claim(
    session: Session,
    *,
    lane: Lane,
    owner: str,
    lease_seconds: float = LEASE_SECONDS,
    max_running: int | None = None,
) -> Claim | None:
    """Take a due job for `owner`; None where there is none.

    Workspaces take turns (`service.lifecycle.turns`), so a workspace with hundreds of jobs keeps no other one waiting
    for more than a job that runs. Within the workspace it is the job of the highest priority, and of those the oldest.

    Other claims on the same queue wait until the transaction ends.

    Args:
        session: An open transaction.
        lane: The queue that jobs of this kind wait in.
        owner: Names one process for good: a worker that was started again is another owner.
        lease_seconds: How long the worker has the job without a `renew`.
        max_running: How many audits a workspace without a limit of its own runs at once; None: any number.
    """
    take_turns(session, lane)
    found = None
    for workspace_id in workspaces_in_order(session, lane, max_running=max_running):
        mine = locked(skip_locked=True).where(is_due(lane), Job.workspace_id == workspace_id)
        found = first(session, mine.order_by(*SERVING_ORDER).limit(1))
        # None: whoever cancels the workspace's jobs has them locked.
        if found is not None:
            break
    if found is None:
        return None
    job, at = found
    snapshot = transitions.claim(read_snapshot(job), owner=owner, now=at, lease=timedelta(seconds=lease_seconds))
    if snapshot is None:
        return None
    job.started_at = at
    write_snapshot(session, job, snapshot)
    note_turn(session, lane, job.workspace_id, at)
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
    """Keep the job for `lease_seconds` from now; while a cancel is under way, for no longer than it was held before.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
        lease_seconds: The length of the lease.

    Returns:
        The seconds that are left, counted from this statement; None if the claim no longer holds the job.
    """
    moved = _moved(session, claim, partial(transitions.renew, lease=timedelta(seconds=lease_seconds)))
    if moved is None or moved.snapshot.lease_expires_at is None:
        return None
    write_snapshot(session, moved.job, moved.snapshot)
    return (moved.snapshot.lease_expires_at - moved.at).total_seconds()


def cancel_requested(session: Session, claim: Claim) -> bool:
    """Say whether the worker should stop: a user asked for it, or the claim no longer holds the job.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
    """
    state = session.scalar(
        select(Job.state).where(Job.id == claim.job_id, Job.attempt == claim.attempt, Job.owner == claim.owner)
    )
    return state != State.RUNNING


def succeed(session: Session, claim: Claim) -> Job | None:
    """End the job as succeeded, for a command that makes its result visible in the same transaction.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.

    Returns:
        The job; None if the claim no longer holds it or a cancel came first, and then nothing changes.
    """
    moved = _moved(session, claim, transitions.succeed)
    if moved is None:
        return None
    write_snapshot(session, moved.job, moved.snapshot)
    count(session, Counted.ATTEMPTS, "published")
    return moved.job


def fail(
    session: Session,
    claim: Claim,
    failure: Failure,
    *,
    retry: bool = False,
    retry_seconds: float = RETRY_SECONDS,
) -> bool:
    """End the attempt: the job has failed, or is queued again for a later attempt.

    A job whose cancel was asked for is cancelled.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
        failure: What went wrong, for users.
        retry: Whether another attempt may succeed; it is made while the job has failures left.
        retry_seconds: How long the job waits before its next attempt.

    Returns:
        False if the claim no longer holds the job; then nothing changes.
    """
    moved = _moved(session, claim, partial(transitions.fail, retry=retry, backoff=timedelta(seconds=retry_seconds)))
    if moved is None:
        return False
    _write_failure(session, moved.job, moved.snapshot, failure, moved.at)
    return True


def mark_cancelled(session: Session, claim: Claim) -> bool:
    """End the job as cancelled.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.

    Returns:
        False if the claim no longer holds the job or nobody asked for a cancel; then nothing changes.
    """
    moved = _moved(session, claim, transitions.confirm_cancel)
    if moved is None:
        return False
    write_snapshot(session, moved.job, moved.snapshot)
    count(session, Counted.ATTEMPTS, "cancelled")
    append_state(session, moved.job, "Cancelled.")
    return True


def release(session: Session, claim: Claim) -> bool:
    """Queue the job again, as a worker that has to end does. A job whose cancel was asked for is cancelled.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.

    Returns:
        False if the claim no longer holds the job; then nothing changes.
    """
    moved = _moved(session, claim, transitions.release)
    if moved is None:
        return False
    count(session, Counted.ATTEMPTS, "released")
    _write_return(session, moved.job, moved.snapshot, "The worker was stopped; queued again.", level="info")
    return True


class _Moved(NamedTuple):
    """A claim's job, locked, and its next state, which is not written yet."""

    job: Job
    snapshot: JobSnapshot
    at: datetime
    """The database's time."""


def _moved(session: Session, claim: Claim, move: Callable[..., JobSnapshot | None]) -> _Moved | None:
    """Apply one of a worker's transitions to the claim's job; None if it is fenced or may not go that way."""
    found = held(session, claim)
    if found is None:
        return None
    job, at = found
    snapshot = move(read_snapshot(job), claim.token, now=at)
    return None if snapshot is None else _Moved(job, snapshot, at)


def stop(session: Session, job: Job, at: datetime, *, within_seconds: float) -> None:
    """Record that a user wants a job to stop. One that has ended stays as it is.

    Args:
        session: An open transaction.
        job: The row of the job, locked.
        at: The database's time.
        within_seconds: How long its worker may take before it loses the job.
    """
    snapshot = transitions.request_cancel(read_snapshot(job), now=at, within=timedelta(seconds=within_seconds))
    if snapshot is None:
        return
    job.cancel_requested_at = at
    write_snapshot(session, job, snapshot)
    append_state(
        session, job, "Cancelled before it started." if snapshot.state is State.CANCELLED else "Cancel requested."
    )


def expire_one(session: Session, *, retry_seconds: float = RETRY_SECONDS) -> Job | None:
    """Take back one job whose lease has run out: it is queued again, failed, or cancelled.

    Jobs that another transaction is writing just now are passed over.

    Args:
        session: An open transaction.
        retry_seconds: How long the job waits before its next attempt.

    Returns:
        The job; None if no lease has run out.
    """
    found = first(
        session,
        locked(skip_locked=True).where(Job.lease_expires_at <= now()).order_by(Job.lease_expires_at, Job.id).limit(1),
    )
    if found is None:
        return None
    job, at = found
    snapshot = transitions.expire(read_snapshot(job), now=at, backoff=timedelta(seconds=retry_seconds))
    if snapshot is None:
        return None
    if snapshot.state is State.CANCELLED:
        count(session, Counted.ATTEMPTS, ErrorCode.LEASE_LOST)
        _write_return(session, job, snapshot, "", level="warning")
    else:
        _write_failure(session, job, snapshot, lease_lost(job.kind), at)
    return job


def requeue_orphans(session: Session) -> int:
    """Frees every job that a worker holds; call it only while no worker can be alive. Returns how many there were."""
    found = session.execute(
        locked().where(Job.state.in_(sorted(HELD))).order_by(Job.id).execution_options(populate_existing=True)
    ).all()
    for job, _ in found:
        snapshot = transitions.give_back(read_snapshot(job))
        assert snapshot is not None
        _write_return(session, job, snapshot, "The worker is gone; queued again.", level="warning")
    return len(found)


def _write_failure(session: Session, job: Job, snapshot: JobSnapshot, failure: Failure, at: datetime) -> None:
    write_snapshot(session, job, snapshot)
    count(session, Counted.ATTEMPTS, failure.code)
    error = failure.model_dump(mode="json")
    if snapshot.state is State.QUEUED:
        seconds = (snapshot.next_attempt_at - at).total_seconds()
        message = f"{failure.message} Tried again in {seconds:.0f} s ({snapshot.failures} of {MAX_FAILURES} failures)."
        append_state(session, job, message, level="warning", data=error)
        return
    if snapshot.state is State.FAILED:
        job.error = error
        session.flush()
    append_state(session, job, failure.message, level="error", data=error)


def _write_return(session: Session, job: Job, snapshot: JobSnapshot, message: str, *, level: Level) -> None:
    write_snapshot(session, job, snapshot)
    if snapshot.state is State.CANCELLED:
        append_state(session, job, "Cancelled.")
    else:
        append_state(session, job, message, level=level)
