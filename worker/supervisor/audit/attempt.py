"""One attempt at an audit: stages inputs, runs a child a step, relays what it says, and publishes what it leaves."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service.contract.protocol import EXIT_STOPPED, CheckpointEvent, FailedEvent, FinishedEvent, ProgressEvent, Stage
from service.contract.spec import COMBINE
from service.lifecycle import audits
from service.lifecycle.jobs import Claim
from service.settings import Settings
from service.store.objects import ObjectStore, step_prefix
from service.store.tables import Audit
from worker.process.child_process import ChildProcess, Exited, restricted_environment
from worker.process.launcher import Launcher
from worker.process.shutdown import GracePeriods, Reason, Stop
from worker.process.stderr_filter import loggable
from worker.process.workdirs import sweep, work_folder
from worker.supervisor.audit.checkpoint_store import CheckpointUploads, delete_checkpoints, stage_checkpoints
from worker.supervisor.audit.eta import EtaEstimator
from worker.supervisor.audit.event_recorder import EventRecorder
from worker.supervisor.audit.plan import PlannedStep, plan_steps
from worker.supervisor.audit.result_loader import load_results, score_count
from worker.supervisor.audit.step_folder import (
    check_recording,
    read_summary,
    spec_sha256,
    stage_inputs,
    store_outputs,
)
from worker.supervisor.counters import StageCounters
from worker.supervisor.database import JobDatabase, LeaseLostError, T
from worker.supervisor.failures import failure_of_child
from worker.supervisor.lease import LeaseKeeper
from worker.supervisor.outcome import FENCED, AttemptOutcome

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ending:
    """How a child came to its end."""

    code: int
    final_event: FinishedEvent | FailedEvent | None
    stopped: Reason | None
    stderr: str


class AuditAttempt:
    """What becomes of one claim. Every write is fenced by (job, attempt, owner) and by the lease."""

    def __init__(
        self,
        settings: Settings,
        sessions: sessionmaker[Session],
        objects: ObjectStore,
        claim: Claim,
        lease: LeaseKeeper,
        *,
        stopping: threading.Event,
        launcher: Launcher,
        grace_periods: GracePeriods,
    ) -> None:
        """Once `stopping` is set, the child is ended and the job goes back to the queue."""
        self._settings = settings
        self._database = JobDatabase(sessions)
        self._objects = objects
        self._claim = claim
        self._lease = lease
        self._launcher = launcher
        self._grace_periods = grace_periods
        self._outcome = AttemptOutcome(settings, self._database, objects, claim, lease, stopping=stopping)
        self._counters = StageCounters(self._database.try_once)

    def run(self) -> str:
        """Takes the job to a terminal state, or back to the queue; says which. Raises only what ends a process."""
        self._counters.enter(Stage.PREPARING)
        try:
            return self._outcome.run(self._run_steps)
        finally:
            self._counters.enter(None)

    # ------------------------------------------------------------ the steps

    def _run_steps(self) -> str:
        """Runs what is left of the audit's steps, in their order. Returns how the attempt ended."""
        self._outcome.purge_earlier()
        plan = self._run_with_retry(lambda session: plan_steps(session, self._objects, self._claim))
        sweep(self._settings.work)
        eta = EtaEstimator(sum(work.spec.step_key != COMBINE for work in plan))
        for number, work in enumerate(plan):
            if number:
                reason = self._outcome.reason_to_stop()
                if reason is not None:
                    return self._outcome.stopped(reason)
                self._show(ProgressEvent(stage=Stage.PREPARING, done=0))
            prefix = f"{self._claim.subject_id}.{self._claim.attempt}."
            with work_folder(self._settings.work, prefix) as folder:
                outcome = self._run_step(work, folder, eta)
            if outcome is not None:
                return outcome
        raise LookupError("the audit has no step left")

    def _run_step(self, work: PlannedStep, folder: Path, eta: EtaEstimator) -> str | None:
        """How the attempt ended with this step; None where the next one is to be run."""
        step_key = work.spec.step_key
        spec = work.spec.model_copy(update={"checkpoint_seconds": self._settings.checkpoint_seconds})
        stage_inputs(folder, spec, self._objects, work.dataset, work.recordings)
        if step_key != COMBINE:
            stage_checkpoints(self._objects, self._claim, step_key, folder)
        sha256 = spec_sha256(work.spec)
        if not self._run_with_retry(lambda session: audits.start_step(session, self._claim, step_key, sha256)):
            return FENCED
        if step_key != COMBINE:
            eta.start()
        ending = self._run_child(work, folder, eta)
        if ending.stopped in (Reason.CANCEL, Reason.LEASE_LOST):
            return self._outcome.stopped(ending.stopped)
        if isinstance(ending.final_event, FinishedEvent):
            if step_key == COMBINE:
                return self._publish(work, folder)
            eta.finish()
            return self._store_recording(work, folder)
        if ending.stopped is Reason.SHUTDOWN:
            return self._outcome.stopped(ending.stopped)
        stderr_lines = loggable(ending.stderr)
        if stderr_lines:
            log.error("the child failed; places and errors of its stderr:\n%s", "\n".join(stderr_lines))
        return self._outcome.failed(failure_of_child(ending.code, ending.final_event, ending.stderr))

    def _run_child(self, work: PlannedStep, folder: Path, eta: EtaEstimator) -> _Ending:
        if self._lease.lost:
            raise LeaseLostError
        environment = restricted_environment(os.environ, self._settings.cache_dir)
        reason = self._prepare(environment)
        if reason is not None:
            return _Ending(EXIT_STOPPED, None, reason, "")
        child = ChildProcess(self._launcher, folder, environment, ttl_s=self._lease.left)
        uploads = CheckpointUploads(
            self._objects, self._claim, work.spec.step_key, folder, ours=lambda: self._lease.good
        )
        wanted = False
        try:
            self._lease.pass_on_to(child)
            ending = self._attend(
                EventRecorder(self._database.try_once, self._claim, work, eta, self._counters), child, uploads
            )
            wanted = ending.stopped in (None, Reason.SHUTDOWN) and not isinstance(ending.final_event, FinishedEvent)
            return ending
        finally:
            self._lease.pass_on_to(None)
            child.kill()
            uploads.close(self._grace_periods.saving if wanted else self._grace_periods.cancelled, wanted=wanted)

    def _prepare(self, environment: Mapping[str, str]) -> Reason | None:
        """Waits until a child can be started; why it must not be any more, if so."""
        while not self._launcher.prepared(environment, seconds=self._settings.poll_seconds):
            self._show(ProgressEvent(stage=Stage.LOADING, done=0))
            reason = self._outcome.reason_to_stop()
            if reason is not None:
                return reason
        return None

    def _attend(self, recorder: EventRecorder, child: ChildProcess, uploads: CheckpointUploads) -> _Ending:
        """Relays the child's events and tells it to stop where it has to, until it is gone."""
        final_event: FinishedEvent | FailedEvent | None = None
        overdue_at: float | None = None
        stop: Stop | None = None
        next_poll = 0.0
        while True:
            now = time.monotonic()
            reason: Reason | None = None
            if stop is None and self._lease.lost:
                reason = Reason.LEASE_LOST
            elif stop is None and now >= next_poll:
                next_poll = now + self._settings.poll_seconds
                reason = self._outcome.reason_to_stop()
                if reason is None and overdue_at is not None and now >= overdue_at:
                    reason = Reason.OVERDUE
            if reason is not None:
                log.info("stopping the child: %s", reason.value)
                stop = Stop(child, reason, self._grace_periods)
            if stop is not None:
                stop.escalate()
            recorder.flush()
            item = child.next(min(self._settings.poll_seconds, 0.25))
            if isinstance(item, Exited):
                recorder.flush(now=True)
                stopped = stop.reason if stop else Reason.LEASE_LOST if self._lease.lost else None
                return _Ending(item.code, final_event, stopped, child.stderr_tail())
            if isinstance(item, FinishedEvent | FailedEvent):
                final_event = item
                overdue_at = time.monotonic() + self._grace_periods.final_event
            elif isinstance(item, CheckpointEvent):
                uploads.take(item)
            elif item is not None and (stop is None or stop.reason is Reason.SHUTDOWN):
                recorder.take(item)

    # ------------------------------------------------------------ what a step has left

    def _store_recording(self, work: PlannedStep, folder: Path) -> str | None:
        """Stores what a training step recorded, so that no later attempt has to run it again."""
        step_key = work.spec.step_key
        check_recording(folder)

        def finish(session: Session) -> bool:
            return audits.finish_step(session, self._claim, step_key, True)

        if not self._store(step_key, folder, finish):
            return self._outcome.cancelled()
        delete_checkpoints(self._objects, self._claim, step_key)
        return None

    def _publish(self, work: PlannedStep, folder: Path) -> str:
        claim, step_key, probes = self._claim, work.spec.step_key, len(work.spec.probes)
        summary = read_summary(folder, work.spec, work.rows)
        scores = score_count(work.rows, probes)
        self._show_publishing(0, scores)

        def publish(session: Session) -> bool:
            if session.get_one(Audit, claim.subject_id).published_attempt == claim.attempt:
                return True  # An earlier try was committed, and the connection broke before we heard of it.
            with self._objects.open(work.dataset) as dataset:
                load_results(
                    session,
                    claim,
                    folder,
                    dataset=dataset,
                    rows=work.rows,
                    probes=probes,
                    findings_top=self._settings.findings_top,
                    on_progress=lambda done: self._show_publishing(done, scores),
                )
            if audits.finish_step(session, claim, step_key, True) and audits.publish(session, claim, summary):
                return True
            session.rollback()  # of the scores too
            return False

        return "published" if self._store(step_key, folder, publish) else self._outcome.cancelled()

    def _store(self, step_key: str, folder: Path, commit: Callable[[Session], bool]) -> bool:
        """Puts the step's files into the object store, and then does what names them; without that they go again."""
        claim = self._claim
        committed = False
        try:
            store_outputs(self._objects, claim, step_key, folder)
            committed = self._run_with_retry(commit)
        except (OperationalError, LeaseLostError):
            committed = True  # Perhaps: the files stay, since a row may name them. The next attempt sees to them.
            raise
        finally:
            if not committed:
                self._objects.delete_tree(step_prefix(claim.workspace_id, claim.subject_id, claim.attempt, step_key))
        return committed

    # ------------------------------------------------------------ the database

    def _run_with_retry(self, act: Callable[[Session], T]) -> T:
        return self._outcome.run_with_retry(act)

    def _show_publishing(self, done: int, total: int) -> None:
        self._show(ProgressEvent(stage=Stage.PUBLISHING, done=done, total=total, unit="scores"))

    def _show(self, event: ProgressEvent) -> None:
        self._counters.enter(event.stage)
        self._database.try_once(lambda session: audits.record_progress(session, self._claim, event))
