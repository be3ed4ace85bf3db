"""Why and how a child is made to end."""

import signal
import time
from dataclasses import dataclass
from enum import Enum

from worker.process.child_process import Child


class Reason(Enum):
    """Why a child was told to stop."""

    CANCEL = "a user cancelled it"
    LEASE_LOST = "the job is no longer ours"
    SHUTDOWN = "this worker ends"
    OVERDUE = "it had said its last word and did not exit"


@dataclass(frozen=True)
class Graces:
    """Seconds that a child is given to end."""

    saving: float = 30.0
    """From being told to save and stop to being told to stop; and for storing what it has saved."""
    told: float = 5.0
    """From being told on stdin to SIGTERM."""
    terminated: float = 5.0
    """From SIGTERM to SIGKILL."""
    last_word: float = 10.0
    """From its `finished` or `failed` to being told."""


class Stop:
    """Tells a child to stop: on stdin, then by SIGTERM, then by SIGKILL. Where this worker ends, it may save first."""

    def __init__(self, child: Child, reason: Reason, graces: Graces) -> None:
        self.reason = reason
        self._child = child
        saves = reason is Reason.SHUTDOWN
        self._tell_at = time.monotonic() + (graces.saving if saves else 0.0)
        self._terminate_at = self._tell_at + graces.told
        self._kill_at = self._terminate_at + graces.terminated
        self._told = self._terminated = False
        if saves:
            child.save_and_stop()
        self.insist()

    def insist(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        if now >= self._kill_at:
            self._child.signal(signal.SIGKILL)
        elif now >= self._terminate_at and not self._terminated:
            self._terminated = True
            self._child.signal(signal.SIGTERM)
        elif now >= self._tell_at and not self._told:
            self._told = True
            self._child.cancel()
