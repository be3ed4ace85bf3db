"""Stops a child in steps: a command on its stdin, then SIGTERM, then SIGKILL."""

import signal
import time
from dataclasses import dataclass
from enum import Enum

from worker.process.child_process import ChildProcess


class Reason(Enum):
    """Why a child is stopped."""

    CANCEL = "a user cancelled it"
    LEASE_LOST = "the job is no longer ours"
    SHUTDOWN = "this worker ends"
    OVERDUE = "it had said its last word and did not exit"


@dataclass(frozen=True)
class GracePeriods:
    """How many seconds a child has to end at each step."""

    saving: float = 30.0
    """From the command to save and stop to the command to stop; also for storing what the child has saved."""
    cancelled: float = 5.0
    """From the command to stop to SIGTERM."""
    terminated: float = 5.0
    """Seconds from SIGTERM to SIGKILL."""
    final_event: float = 10.0
    """From its event `finished` or `failed` to the command to stop."""


class Stop:
    """Stops one child: by a command on stdin, then by SIGTERM, then by SIGKILL."""

    def __init__(self, child: ChildProcess, reason: Reason, grace_periods: GracePeriods) -> None:
        """Tell the child to stop, or to save first if this worker ends.

        Args:
            child: The child to stop.
            reason: Why it is stopped.
            grace_periods: How long it has at each step.
        """
        self.reason = reason
        self._child = child
        saves = reason is Reason.SHUTDOWN
        self._cancel_at = time.monotonic() + (grace_periods.saving if saves else 0.0)
        self._terminate_at = self._cancel_at + grace_periods.cancelled
        self._kill_at = self._terminate_at + grace_periods.terminated
        self._cancelled = self._terminated = False
        if saves:
            child.save_and_stop()
        self.escalate()

    def escalate(self) -> None:
        """Take the next step if it is due. Has to be called repeatedly until the child has ended."""
        now = time.monotonic()
        if now >= self._kill_at:
            self._child.signal(signal.SIGKILL)
        elif now >= self._terminate_at and not self._terminated:
            self._terminated = True
            self._child.signal(signal.SIGTERM)
        elif now >= self._cancel_at and not self._cancelled:
            self._cancelled = True
            self._child.cancel()
