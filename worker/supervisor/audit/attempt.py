"""One attempt at an audit: runs the steps that are left, one after the other."""

import logging

from service.contract.protocol import ProgressEvent, Stage
from service.lifecycle import audits
from worker.process.launcher import Launcher
from worker.process.shutdown import GracePeriods, Reason
from worker.process.stderr_filter import loggable
from worker.process.workdirs import sweep, work_folder
from worker.supervisor.audit.child_run import ChildRun
from worker.supervisor.audit.eta import EtaEstimator
from worker.supervisor.audit.event_recorder import EventRecorder
from worker.supervisor.audit.model_cache import ModelFetch
from worker.supervisor.audit.plan import plan_steps
from worker.supervisor.audit.step_folder import StepFolder, spec_sha256
from worker.supervisor.audit.step_kinds import StepKind
from worker.supervisor.context import AttemptContext
from worker.supervisor.counters import StageCounters
from worker.supervisor.failures import failure_of_child
from worker.supervisor.outcome import FENCED, AttemptOutcome, purge_earlier_attempts

log = logging.getLogger(__name__)


class AuditAttempt:
    """An attempt at a claimed audit. Every write is fenced by (job, attempt, owner) and by the lease."""

    def __init__(self, context: AttemptContext, *, launcher: Launcher, grace_periods: GracePeriods) -> None:
        """Run children that `launcher` starts and that are given the grace periods to end."""
        self._context = context
        self._launcher = launcher
        self._grace_periods = grace_periods
        self._outcome = AttemptOutcome(context)
        self._counters = StageCounters(context.database.try_once)

    def run(self) -> str:
        """Take the job to a terminal state or back to the queue, and return which. Raises only what ends a process."""
        self._counters.enter(Stage.PREPARING)
        try:
            return self._outcome.run(self._run_steps)
        finally:
            self._counters.enter(None)

    def _run_steps(self) -> str:
        """Run the steps that are left, in their order. Returns how the attempt ended."""
        context, claim = self._context, self._context.claim
        purge_earlier_attempts(context)
        plan = context.run_with_retry(lambda session: plan_steps(session, context))
        sweep(context.settings.work)
        eta = EtaEstimator(sum(step.kind.trains for step in plan))
        for number, step in enumerate(plan):
            recorder = EventRecorder(context, step.inputs, eta, self._counters)
            if number:
                reason = context.reason_to_stop()
                if reason is not None:
                    return self._outcome.stopped(reason)
                recorder.show(ProgressEvent(stage=Stage.PREPARING, done=0))
            if step.inputs.model is not None:

                def show(done: int, total: int, recorder: EventRecorder = recorder) -> None:
                    recorder.show(ProgressEvent(stage=Stage.LOADING, done=done, total=total, unit="bytes"))

                reason = ModelFetch(context, step.inputs.model, show).run()
                if reason is not None:
                    return self._outcome.stopped(reason)
            with work_folder(context.settings.work, f"{claim.subject_id}.{claim.attempt}.") as path:
                folder = StepFolder(path, step.inputs, context.objects, claim)
                outcome = self._run_step(step.kind, folder, recorder, eta)
            if outcome is not None:
                return outcome
        raise LookupError("the audit has no step left")

    def _run_step(self, kind: StepKind, folder: StepFolder, recorder: EventRecorder, eta: EtaEstimator) -> str | None:
        """Run one step. Returns how the attempt ended with it; None if the next step is to be run."""
        context = self._context
        kind.stage(folder)
        sha256 = spec_sha256(folder.inputs.spec)
        if not context.run_with_retry(lambda s: audits.start_step(s, context.claim, folder.step_key, sha256)):
            return FENCED
        if kind.trains:
            eta.start()
        run = ChildRun(context, folder, recorder, launcher=self._launcher, grace_periods=self._grace_periods)
        ending = run.run()
        if ending.stopped in (Reason.CANCEL, Reason.LEASE_LOST):
            return self._outcome.stopped(ending.stopped)
        if ending.finished:
            if kind.trains:
                eta.finish()
            return kind.outcome if kind.accept(folder, context, recorder) else self._outcome.cancelled()
        if ending.stopped is Reason.SHUTDOWN:
            return self._outcome.stopped(ending.stopped)
        stderr_lines = loggable(ending.stderr)
        if stderr_lines:
            log.error("the child failed; places and errors of its stderr:\n%s", "\n".join(stderr_lines))
        return self._outcome.failed(failure_of_child(ending.code, ending.final_event, ending.stderr))
