"""Keeps a worker from taking jobs once its device has failed, until the device has passed a check."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

CHECK_COMMAND = (sys.executable, "-P", "-m", "worker.child.check_device")
"""The program that checks the device, in a process of its own, since a failed driver may hang or abort it."""

CHECK_SECONDS = 300.0
"""A check that takes longer has failed: a driver may not answer at all."""

REST = 2
"""The first rest is so many times as long as a job waits for its next attempt, so that another worker takes it."""
LONGEST = 4**3
"""Rests grow up to so many times the first."""


class DeviceWatch:
    """What a worker knows of its device's failures. Only the thread that runs jobs changes it."""

    def __init__(
        self,
        *,
        retry_seconds: float,
        environment: Callable[[], dict[str, str]],
        command: Sequence[str] = CHECK_COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Trust the device until it fails.

        Args:
            retry_seconds: How long a job waits after its first failure.
            environment: Gives the environment of a check, which is that of the children.
            command: A check: exit code 0 for a sound device, and else the reason as the last line of stderr.
            clock: Counts seconds.
        """
        self._retry_seconds, self._environment, self._command, self._clock = retry_seconds, environment, command, clock
        self._failures = 0
        self._failed = False
        self._rests_until = 0.0

    @property
    def failed(self) -> bool:
        """Whether the device has failed and passed no check since."""
        return self._failed

    def attempt_ended(self, *, device_failed: bool) -> None:
        """Count an attempt at a job: one that the device failed in against it, another one for it."""
        if not device_failed:
            self._failures = 0
            return
        self._failures += 1
        self._failed = True
        seconds = self._rest()
        log.error("the device failed; no job is taken for %.0f s, nor before the device has passed a check", seconds)

    def may_take_jobs(self) -> bool:
        """Return whether the worker may take a job; checks a device that has failed, once it has rested."""
        if not self._failed:
            return True
        if self._clock() < self._rests_until:
            return False
        fault = self._check()
        if fault is None:
            log.warning("the device has passed a check; jobs are taken again")
            self._failed = False
            return True
        log.error("the device has failed a check, so no job is taken for %.0f s: %s", self._rest(), fault)
        return False

    def _rest(self) -> float:
        seconds = self._retry_seconds * REST * min(4 ** (self._failures - 1), LONGEST)
        self._rests_until = self._clock() + seconds
        return seconds

    def _check(self) -> str | None:
        """Return what is wrong with the device, or None."""
        try:
            found = subprocess.run(
                self._command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=CHECK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no answer within {CHECK_SECONDS:.0f} s"
        except OSError as error:
            return f"it could not be checked ({type(error).__name__})"
        if found.returncode == 0:
            return None
        last = found.stderr.strip().rpartition("\n")[2]
        return last or f"the check ended with code {found.returncode}"
