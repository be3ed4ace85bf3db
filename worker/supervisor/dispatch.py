"""Takes due jobs and runs them, one at a time, each under a lease. No torch here."""

import logging
import os
import threading
import time

from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle import jobs
from service.lifecycle.jobs import Claim
from service.logs import log_context
from service.settings import Lane, Settings
from service.store.counters import Counted, count_aside
from service.store.objects import ObjectStore
from worker.process.child_process import restricted_environment
from worker.process.launcher import STEP_COMMAND, Launcher, Spawner
from worker.process.shutdown import GracePeriods
from worker.supervisor.audit.attempt import AuditAttempt
from worker.supervisor.database import JobDatabase
from worker.supervisor.export.attempt import ExportAttempt
from worker.supervisor.lease import LeaseKeeper
from worker.supervisor.near_duplicates.attempt import NearDuplicatesAttempt
from worker.supervisor.outcome import FENCED

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
    ) -> None:
        """Once `stopping` is set, the running child is ended, its job goes back to the queue and no other is taken."""
        self._settings = settings
        self._sessions = sessions
        self._objects = objects
        self._owner = owner
        self._stopping = stopping
        self._launcher = launcher
        self._grace_periods = grace_periods

    def prepare(self) -> None:
        """Begins to make ready for the children of audits; does not wait."""
        self._launcher.prepared(restricted_environment(os.environ, self._settings.cache_dir), seconds=0)

    def run_due(self, lane: Lane) -> int:
        """Claims and runs the lane's due jobs until none is due. Returns how many it ran."""
        ran = 0
        while not self._stopping.is_set() and self._run_next(lane):
            ran += 1
        return ran

    def _run_next(self, lane: Lane) -> bool:
        since = 0.0

        def take(session: Session) -> Claim | None:
            nonlocal since
            since = time.monotonic()
            return jobs.claim(session, lane=lane, owner=self._owner, lease_seconds=self._settings.lease_seconds)

        claim = JobDatabase(self._sessions).run_with_retry(take)
        if claim is None:
            return False
        with (
            log_context(**{claim.kind: claim.subject_id}, attempt=claim.attempt, request_id=claim.request_id),
            LeaseKeeper(self._sessions, claim, seconds=self._settings.lease_seconds, since=since) as lease,
        ):
            log.info("attempt started")
            self._count(Counted.STARTED, lane)
            outcome = self._attempt(claim, lease).run()
            if outcome == FENCED:
                self._count(Counted.FENCED, "")
            log.info("attempt ended: %s", outcome)
        return True

    def _attempt(self, claim: Claim, lease: LeaseKeeper) -> AuditAttempt | ExportAttempt | NearDuplicatesAttempt:
        common = (self._settings, self._sessions, self._objects, claim, lease)
        match claim.kind:
            case "audit":
                return AuditAttempt(
                    *common, stopping=self._stopping, launcher=self._launcher, grace_periods=self._grace_periods
                )
            case "export":
                return ExportAttempt(*common, stopping=self._stopping, grace_periods=self._grace_periods)
            case "dataset":
                return NearDuplicatesAttempt(*common, stopping=self._stopping)
        raise LookupError(f"no worker knows jobs of kind {claim.kind!r}")

    def _count(self, name: Counted, label: str) -> None:
        JobDatabase(self._sessions).try_once(lambda session: count_aside(session, {(name, label): 1.0}))
