"""The life of a job as pure functions: from what its row says and what happens to what the row says then.

Every function returns None where the act is not allowed: nothing may change then. Times are the database's.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum


class State(StrEnum):
    """A job's state, as in `jobs.state`."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
"""The states that never change."""

HELD = frozenset({State.RUNNING, State.CANCELLING})
"""States in which a worker owns the job."""

MAX_FAILURES = 3
"""How many failures end a job, whatever they were."""


@dataclass(frozen=True)
class JobSnapshot:
    """What a job's row says that decides what may happen to it."""

    next_attempt_at: datetime
    state: State = State.QUEUED
    attempt: int = 0
    owner: str | None = None
    """The worker process that has the attempt under way, or that had the one which ended the job."""
    lease_expires_at: datetime | None = None
    """While a worker owns the job: from then on it does not."""
    failures: int = 0


@dataclass(frozen=True)
class FencingToken:
    """By what a worker's acts are known: the attempt, and who took it."""

    attempt: int
    owner: str


def is_held(snapshot: JobSnapshot, token: FencingToken, now: datetime) -> bool:
    """Say whether a worker still holds a job. A lease that has run out is lost, even if nobody has taken over.

    Args:
        snapshot: The job as its row says.
        token: What the worker was given with the job.
        now: The database's time.
    """
    return (
        snapshot.state in HELD
        and (snapshot.attempt, snapshot.owner) == (token.attempt, token.owner)
        and snapshot.lease_expires_at is not None
        and now < snapshot.lease_expires_at
    )


# ---------------------------------------------------------------- a worker's acts


def claim(snapshot: JobSnapshot, *, owner: str, now: datetime, lease: timedelta) -> JobSnapshot | None:
    """Return a queued job that is due as taken by a worker; None if it is neither.

    Args:
        snapshot: The job as its row says.
        owner: Names the worker's process.
        now: The database's time.
        lease: How long the worker has it.
    """
    if snapshot.state is not State.QUEUED or now < snapshot.next_attempt_at:
        return None
    return replace(
        snapshot, state=State.RUNNING, attempt=snapshot.attempt + 1, owner=owner, lease_expires_at=now + lease
    )


def renew(snapshot: JobSnapshot, token: FencingToken, *, now: datetime, lease: timedelta) -> JobSnapshot | None:
    """Return the job with a lease from now on; while a cancel is under way the lease is not made longer.

    Args:
        snapshot: The job as its row says.
        token: What the worker was given with the job.
        now: The database's time.
        lease: How long the worker has it.

    Returns:
        None if the worker no longer holds the job.
    """
    if not is_held(snapshot, token, now):
        return None
    return replace(snapshot, lease_expires_at=now + lease) if snapshot.state is State.RUNNING else snapshot


def succeed(snapshot: JobSnapshot, token: FencingToken, *, now: datetime) -> JobSnapshot | None:
    """Return the job as succeeded.

    Args:
        snapshot: The job as its row says.
        token: What the worker was given with the job.
        now: The database's time.

    Returns:
        None if the worker no longer holds the job or a cancel was asked for.
    """
    if not is_held(snapshot, token, now) or snapshot.state is not State.RUNNING:
        return None
    return _end(snapshot, State.SUCCEEDED)


def fail(
    snapshot: JobSnapshot, token: FencingToken, *, now: datetime, retry: bool, backoff: timedelta
) -> JobSnapshot | None:
    """Return the job as failed, or as queued for a later attempt.

    Args:
        snapshot: The job as its row says.
        token: What the worker was given with the job.
        now: The database's time.
        retry: Whether another attempt may succeed; it is made while the job has failures left.
        backoff: How long the job waits before its next attempt.

    Returns:
        None if the worker no longer holds the job.
    """
    return _failed(snapshot, now=now, retry=retry, backoff=backoff) if is_held(snapshot, token, now) else None


def confirm_cancel(snapshot: JobSnapshot, token: FencingToken, *, now: datetime) -> JobSnapshot | None:
    """Return the job as cancelled, now that its worker has stopped.

    Args:
        snapshot: The job as its row says.
        token: What the worker was given with the job.
        now: The database's time.

    Returns:
        None if the worker no longer holds the job or nobody asked for a cancel.
    """
    if not is_held(snapshot, token, now) or snapshot.state is not State.CANCELLING:
        return None
    return _end(snapshot, State.CANCELLED)


def release(snapshot: JobSnapshot, token: FencingToken, *, now: datetime) -> JobSnapshot | None:
    """Return the job as queued again without a failure, for a worker that has to end; None if it does not hold it.

    Args:
        snapshot: The job as its row says.
        token: What the worker was given with the job.
        now: The database's time.
    """
    return give_back(snapshot) if is_held(snapshot, token, now) else None


# ---------------------------------------------------------------- acts of others


def request_cancel(snapshot: JobSnapshot, *, now: datetime, within: timedelta) -> JobSnapshot | None:
    """Return the job as a user's wish to stop it leaves it: cancelled if it was queued, cancelling if it ran.

    Args:
        snapshot: The job as its row says.
        now: The database's time.
        within: How long its worker may take before it loses the job.

    Returns:
        None if the job has ended or is being cancelled already.
    """
    if snapshot.state is State.QUEUED:
        return _end(snapshot, State.CANCELLED)
    if snapshot.state is not State.RUNNING or snapshot.lease_expires_at is None:
        return None
    return replace(snapshot, state=State.CANCELLING, lease_expires_at=min(snapshot.lease_expires_at, now + within))


def expire(snapshot: JobSnapshot, *, now: datetime, backoff: timedelta) -> JobSnapshot | None:
    """Return a job whose lease has run out as failed, or as queued for its next attempt.

    Args:
        snapshot: The job as its row says.
        now: The database's time.
        backoff: How long the job waits before its next attempt.

    Returns:
        None if no lease has run out.
    """
    if snapshot.state not in HELD or snapshot.lease_expires_at is None or now < snapshot.lease_expires_at:
        return None
    return _failed(snapshot, now=now, retry=True, backoff=backoff)


def give_back(snapshot: JobSnapshot) -> JobSnapshot | None:
    """Its worker is known to be gone without fault of the job, which keeps its place in the queue."""
    if snapshot.state not in HELD:
        return None
    if snapshot.state is State.CANCELLING:
        return _end(snapshot, State.CANCELLED)
    return replace(snapshot, state=State.QUEUED, owner=None, lease_expires_at=None)


def follow_up(snapshot: JobSnapshot, *, now: datetime) -> JobSnapshot | None:
    """Return the first state of another job that tries a failed or cancelled one again; its attempts count on.

    Args:
        snapshot: The job as its row says.
        now: The database's time.

    Returns:
        None if the job has neither failed nor been cancelled.
    """
    if snapshot.state not in (State.FAILED, State.CANCELLED):
        return None
    return JobSnapshot(next_attempt_at=now, attempt=snapshot.attempt)


def _end(snapshot: JobSnapshot, state: State) -> JobSnapshot:
    return replace(snapshot, state=state, lease_expires_at=None)


def _failed(snapshot: JobSnapshot, *, now: datetime, retry: bool, backoff: timedelta) -> JobSnapshot:
    failures = snapshot.failures + 1
    if snapshot.state is State.CANCELLING:
        # Who asked for a cancel got one, however the worker came to its end. The failure stays in the events.
        return replace(_end(snapshot, State.CANCELLED), failures=failures)
    if not retry or failures >= MAX_FAILURES:
        return replace(_end(snapshot, State.FAILED), failures=failures)
    # Four times as long each time: what is out for a moment is not kept waiting, what is out for minutes gets them.
    return replace(
        snapshot,
        state=State.QUEUED,
        owner=None,
        lease_expires_at=None,
        failures=failures,
        next_attempt_at=now + backoff * 4**snapshot.failures,
    )
