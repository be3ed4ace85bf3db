"""The life of a job as a pure state machine: what may follow what."""

from enum import StrEnum


class State(StrEnum):
    """A job's state, as in `jobs.state`."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Act(StrEnum):
    """What may happen to a job."""

    CLAIM = "claim"
    """A worker takes it."""
    SUCCEED = "succeed"
    """Its worker publishes the result."""
    FAIL = "fail"
    """Its worker gives up."""
    REQUEST_CANCEL = "request_cancel"
    """A user wants it stopped."""
    CONFIRM_CANCEL = "confirm_cancel"
    """Its worker has stopped, as asked."""
    REQUEUE = "requeue"
    """Its worker is known to be gone."""


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
"""States that never change."""

HELD = frozenset({State.RUNNING, State.CANCELLING})
"""States in which a worker owns the job."""

_TRANSITIONS = {
    (State.QUEUED, Act.CLAIM): State.RUNNING,
    (State.QUEUED, Act.REQUEST_CANCEL): State.CANCELLED,
    (State.RUNNING, Act.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Act.FAIL): State.FAILED,
    (State.RUNNING, Act.REQUEST_CANCEL): State.CANCELLING,
    (State.RUNNING, Act.REQUEUE): State.QUEUED,
    (State.CANCELLING, Act.CONFIRM_CANCEL): State.CANCELLED,
    # Who asked for a cancel got one, however the worker came to its end. The failure stays in the events.
    (State.CANCELLING, Act.FAIL): State.CANCELLED,
    (State.CANCELLING, Act.REQUEUE): State.CANCELLED,
}


def next_state(state: State, act: Act) -> State | None:
    """The state that `act` leads to, or None where it is not allowed and nothing may change."""
    return _TRANSITIONS.get((state, act))
