"""Runs the child of one step from its start to its end, and records what it reports meanwhile."""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from service.contract.protocol import EXIT_STOPPED, CheckpointEvent, FailedEvent, FinishedEvent, ProgressEvent, Stage
from worker.process.child_process import ChildProcess, Exited, downloading_environment
from worker.process.launcher import Launcher
from worker.process.shutdown import GracePeriods, Reason, Stop
from worker.supervisor.audit.checkpoint_store import CheckpointUploads
from worker.supervisor.audit.event_recorder import EventRecorder
from worker.supervisor.audit.step_folder import StepFolder
from worker.supervisor.context import AttemptContext
from worker.supervisor.errors import LeaseLostError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChildEnding:
    """How a child ended."""

    code: int
    """Its exit code, negative for a signal."""
    final_event: FinishedEvent | FailedEvent | None
    stopped: Reason | None
    """Why it was stopped; None if it ended by itself."""
    stderr: str

    @property
    def finished(self) -> bool:
        """Whether it reported that it had done its work."""
        return isinstance(self.final_event, FinishedEvent)


class ChildRun:
    """One run of a child in the folder of a step. Call `run` once."""

    def __init__(
        self,
        context: AttemptContext,
        folder: StepFolder,
        recorder: EventRecorder,
        *,
        launcher: Launcher,
        grace_periods: GracePeriods,
    ) -> None:
        """Run a child that `launcher` starts in the staged folder; `recorder` gets its events."""
        self._context = context
        self._folder = folder
        self._recorder = recorder
        self._launcher = launcher
        self._grace_periods = grace_periods
        self._poll_seconds = context.settings.poll_seconds
        self._next_poll = 0.0
        self._final_event: FinishedEvent | FailedEvent | None = None
        self._overdue_at = 0.0
        self._stop: Stop | None = None

    def run(self) -> ChildEnding:
        """Run the child to its end. No process of it is left when this returns or raises.

        Raises:
            LeaseLostError: The job was no longer this worker's before the child was started.
            OSError: The child cannot be started.
        """
        lease = self._context.lease
        if lease.lost:
            raise LeaseLostError
        settings = self._context.settings
        environment = downloading_environment(os.environ, settings.cache_dir, train_on=settings.train_on)
        reason = self._wait_for_launcher(environment)
        if reason is not None:
            return ChildEnding(EXIT_STOPPED, None, reason, "")
        child = ChildProcess(self._launcher, self._folder.path, environment, ttl_s=lease.left)
        uploads = self._folder.upload_checkpoints(lambda: lease.good)
        wanted = False
        try:
            lease.pass_on_to(child)
            ending = self._attend(child, uploads)
            wanted = ending.stopped in (None, Reason.SHUTDOWN) and not ending.finished
            return ending
        finally:
            lease.pass_on_to(None)
            child.kill()
            uploads.close(self._grace_periods.saving if wanted else self._grace_periods.cancelled, wanted=wanted)

    def _wait_for_launcher(self, environment: Mapping[str, str]) -> Reason | None:
        """Wait until a child can be started; return why it must not be any more, if so."""
        while not self._launcher.prepared(environment, seconds=self._poll_seconds):
            self._recorder.show(ProgressEvent(stage=Stage.LOADING, done=0))
            reason = self._context.reason_to_stop()
            if reason is not None:
                return reason
        return None

    def _attend(self, child: ChildProcess, uploads: CheckpointUploads) -> ChildEnding:
        """Record the child's events, and stop it when it has to, until it is gone."""
        while True:
            if self._stop is None:
                reason = self._reason_to_stop()
                if reason is not None:
                    log.info("stopping the child: %s", reason.value)
                    self._stop = Stop(child, reason, self._grace_periods)
            if self._stop is not None:
                self._stop.escalate()
            self._recorder.flush()
            item = child.next(min(self._poll_seconds, 0.25))
            if isinstance(item, Exited):
                self._recorder.flush(now=True)
                return ChildEnding(item.code, self._final_event, self._stopped(), child.stderr_tail())
            if isinstance(item, FinishedEvent | FailedEvent):
                self._final_event = item
                self._overdue_at = time.monotonic() + self._grace_periods.final_event
            elif isinstance(item, CheckpointEvent):
                uploads.take(item)
            elif item is not None and (self._stop is None or self._stop.reason is Reason.SHUTDOWN):
                self._recorder.take(item)

    def _reason_to_stop(self) -> Reason | None:
        """Return why the child has to stop. The lease is looked at each time, everything else once a poll."""
        if self._context.lease.lost:
            return Reason.LEASE_LOST
        now = time.monotonic()
        if now < self._next_poll:
            return None
        self._next_poll = now + self._poll_seconds
        overdue = self._final_event is not None and now >= self._overdue_at
        return self._context.reason_to_stop() or (Reason.OVERDUE if overdue else None)

    def _stopped(self) -> Reason | None:
        """Return why the child was stopped, or may have ended by itself: with its lease."""
        if self._stop is not None:
            return self._stop.reason
        return Reason.LEASE_LOST if self._context.lease.lost else None
