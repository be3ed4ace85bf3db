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
"""States that never change."""

HELD = frozenset({State.RUNNING, State.CANCELLING})
"""States in which a worker owns the job."""

MAX_FAILURES = 3
"""So many failures end a job, whatever they were."""


@dataclass(frozen=True)
class Life:
    """What a job's row says that decides what may happen to it."""

    next_attempt_at: datetime
    state: State = State.QUEUED
    attempt: int = 0
    owner: str | None = None
    """Of the attempt under way, or of the one that ended the job."""
    lease_expires_at: datetime | None = None
    """While a worker owns the job: from then on it does not."""
    failures: int = 0


@dataclass(frozen=True)
class Hold:
    """By what a worker's acts are known: the attempt, and who took it."""

    attempt: int
    owner: str


def is_held(life: Life, hold: Hold, now: datetime) -> bool:
    """Whether the job is still the worker's. A lease that has run out is lost, even if nobody has taken over."""
    return (
        life.state in HELD
        and (life.attempt, life.owner) == (hold.attempt, hold.owner)
        and life.lease_expires_at is not None
        and now < life.lease_expires_at
    )


# ---------------------------------------------------------------- a worker's acts


def claim(life: Life, *, owner: str, now: datetime, lease: timedelta) -> Life | None:
    """A worker takes a queued job that is due."""
    if life.state is not State.QUEUED or now < life.next_attempt_at:
        return None
    return replace(life, state=State.RUNNING, attempt=life.attempt + 1, owner=owner, lease_expires_at=now + lease)


def renew(life: Life, hold: Hold, *, now: datetime, lease: timedelta) -> Life | None:
    """Its worker is alive. While a cancel is under way the lease is not made longer."""
    if not is_held(life, hold, now):
        return None
    return replace(life, lease_expires_at=now + lease) if life.state is State.RUNNING else life


def succeed(life: Life, hold: Hold, *, now: datetime) -> Life | None:
    """Its worker publishes the result; not after a cancel was asked for."""
    if not is_held(life, hold, now) or life.state is not State.RUNNING:
        return None
    return _end(life, State.SUCCEEDED)


def fail(life: Life, hold: Hold, *, now: datetime, retry: bool, backoff: timedelta) -> Life | None:
    """Its worker gives up: for good, or until a later attempt while there are failures left."""
    return _failed(life, now=now, retry=retry, backoff=backoff) if is_held(life, hold, now) else None


def confirm_cancel(life: Life, hold: Hold, *, now: datetime) -> Life | None:
    """Its worker has stopped, as asked."""
    if not is_held(life, hold, now) or life.state is not State.CANCELLING:
        return None
    return _end(life, State.CANCELLED)


def release(life: Life, hold: Hold, *, now: datetime) -> Life | None:
    """Its worker has to end and gives it back. That is no failure."""
    return give_back(life) if is_held(life, hold, now) else None


# ---------------------------------------------------------------- acts of others


def request_cancel(life: Life, *, now: datetime, within: timedelta) -> Life | None:
    """A user wants it stopped: its worker has `within` for that, and then loses the job."""
    if life.state is State.QUEUED:
        return _end(life, State.CANCELLED)
    if life.state is not State.RUNNING or life.lease_expires_at is None:
        return None
    return replace(life, state=State.CANCELLING, lease_expires_at=min(life.lease_expires_at, now + within))


def expire(life: Life, *, now: datetime, backoff: timedelta) -> Life | None:
    """Its worker has not been heard of for a lease: a failure, and the next attempt may go on."""
    if life.state not in HELD or life.lease_expires_at is None or now < life.lease_expires_at:
        return None
    return _failed(life, now=now, retry=True, backoff=backoff)


def give_back(life: Life) -> Life | None:
    """Its worker is known to be gone without fault of the job, which keeps its place in the queue."""
    if life.state not in HELD:
        return None
    if life.state is State.CANCELLING:
        return _end(life, State.CANCELLED)
    return replace(life, state=State.QUEUED, owner=None, lease_expires_at=None)


def follow_up(life: Life, *, now: datetime) -> Life | None:
    """The life of another job that tries again what this one has not brought to its end; attempts count on."""
    if life.state not in (State.FAILED, State.CANCELLED):
        return None
    return Life(next_attempt_at=now, attempt=life.attempt)


def _end(life: Life, state: State) -> Life:
    return replace(life, state=state, lease_expires_at=None)


def _failed(life: Life, *, now: datetime, retry: bool, backoff: timedelta) -> Life:
    failures = life.failures + 1
    if life.state is State.CANCELLING:
        # Who asked for a cancel got one, however the worker came to its end. The failure stays in the events.
        return replace(_end(life, State.CANCELLED), failures=failures)
    if not retry or failures >= MAX_FAILURES:
        return replace(_end(life, State.FAILED), failures=failures)
    # Four times as long each time: what is out for a moment is not kept waiting, what is out for minutes gets them.
    return replace(
        life,
        state=State.QUEUED,
        owner=None,
        lease_expires_at=None,
        failures=failures,
        next_attempt_at=now + backoff * 4**life.failures,
    )
