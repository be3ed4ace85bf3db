"""Claims due jobs and runs them, one at a time, each under a lease. Nothing here imports torch."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session, sessionmaker

from service.contract.failure import ErrorCode, Failure
from service.lifecycle import jobs
from service.lifecycle.jobs import Claim
from service.logs import log_context
from service.settings import Lane, Settings
from service.store.counters import Counted, count_aside
from service.store.objects import ObjectStore
from worker.process.child_process import downloading_environment
from worker.process.launcher import STEP_COMMAND, Launcher, Spawner
from worker.process.shutdown import GracePeriods
from worker.supervisor.audit.attempt import AuditAttempt
from worker.supervisor.context import AttemptContext
from worker.supervisor.database import JobDatabase
from worker.supervisor.device_watch import CHECK_COMMAND, DeviceWatch
from worker.supervisor.export.attempt import ExportAttempt
from worker.supervisor.lease import LeaseKeeper
from worker.supervisor.near_duplicates.attempt import NearDuplicatesAttempt
from worker.supervisor.outcome import FENCED
from worker.supervisor.versions.attempt import VersionAttempt

log = logging.getLogger(__name__)


class Supervisor:
    """Runs jobs, one at a time, as `owner`. Every write is fenced by (job, attempt, owner) and by the lease."""

    def __init__(
        self,
        settings: Settings,
        sessions: sessionmaker[Session],
        objects: ObjectStore,
        *,
        owner: str,
        stopping: threading.Event,
        launcher: Launcher = Spawner(STEP_COMMAND),  # noqa: B008  # has no state
        grace_periods: GracePeriods = GracePeriods(),  # noqa: B008  # frozen
        device_check: Sequence[str] = CHECK_COMMAND,
    ) -> None:
        """Use `launcher` for the children of audits, and `device_check` for a device that has failed.

        Once `stopping` is set, the running job goes back to the queue.
        """
        self._settings = settings
        self._sessions = sessions
        self._database = JobDatabase(sessions)
        self._objects = objects
        self._owner = owner
        self._stopping = stopping
        self._launcher = launcher
        self._grace_periods = grace_periods
        self._device = DeviceWatch(
            retry_seconds=settings.retry_seconds, environment=self._children_environment, command=device_check
        )
        self._uncounted: dict[tuple[Counted, str], float] = {}

    @property
    def device_failed(self) -> bool:
        """Whether no audit is taken, because the device failed and has passed no check since."""
        return self._device.failed

    def prepare(self) -> None:
        """Begin to get ready for the children of audits. Returns at once."""
        self._launcher.prepared(self._children_environment(), seconds=0)

    def run_due(self, lane: Lane) -> int:
        """Claim and run the lane's due jobs until none is due, or the device has failed. Returns how many were run."""
        ran = 0
        while not self._stopping.is_set() and self._may_take(lane) and self._run_next(lane):
            ran += 1
        return ran

    def _may_take(self, lane: Lane) -> bool:
        return lane != "gpu" or self._device.may_take_jobs()

    def _run_next(self, lane: Lane) -> bool:
        since = 0.0

        def take(session: Session) -> Claim | None:
            nonlocal since
            since = time.monotonic()
            return jobs.claim(
                session,
                lane=lane,
                owner=self._owner,
                lease_seconds=self._settings.lease_seconds,
                max_running=self._settings.max_running_audits,
            )

        claim = self._database.run_with_retry(take)
        if claim is None:
            return False
        with (
            log_context(**{claim.kind: claim.subject_id}, attempt=claim.attempt, request_id=claim.request_id),
            LeaseKeeper(self._sessions, claim, seconds=self._settings.lease_seconds, since=since) as lease,
        ):
            log.info("attempt started")
            self._count(Counted.STARTED, lane)
            failures: list[Failure] = []
            outcome = self._attempt(claim, lease, failures.append).run()
            if lane == "gpu":
                device_failed = any(failure.code is ErrorCode.DEVICE_FAILED for failure in failures)
                self._device.attempt_ended(device_failed=device_failed)
            if outcome == FENCED:
                self._count(Counted.FENCED, "")
            log.info("attempt ended: %s", outcome)
        return True

    def _attempt(
        self, claim: Claim, lease: LeaseKeeper, on_failure: Callable[[Failure], None]
    ) -> AuditAttempt | ExportAttempt | NearDuplicatesAttempt | VersionAttempt:
        context = AttemptContext(
            self._settings, self._database, self._objects, claim, lease, self._stopping, on_failure
        )
        match claim.kind:
            case "audit":
                return AuditAttempt(context, launcher=self._launcher, grace_periods=self._grace_periods)
            case "export":
                return ExportAttempt(context, grace_periods=self._grace_periods)
            case "dataset":
                return NearDuplicatesAttempt(context)
            case "version":
                return VersionAttempt(context)
        raise LookupError(f"no worker knows jobs of kind {claim.kind!r}")

    def _children_environment(self) -> dict[str, str]:
        return downloading_environment(os.environ, self._settings.cache_dir, train_on=self._settings.train_on)

    def _count(self, name: Counted, label: str) -> None:
        self._uncounted[name, label] = self._uncounted.get((name, label), 0.0) + 1.0
        amounts = dict(self._uncounted)

        def write(session: Session) -> bool:
            count_aside(session, amounts)
            return True

        # Away, as it is for a worker that was cut off from it: counted with what comes next.
        if self._database.try_once(write):
            self._uncounted.clear()
