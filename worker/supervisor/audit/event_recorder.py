"""Records in the database what the child of a step reports."""

import time

from service.contract.protocol import Event, MetricEvent, NoticeEvent, ProgressEvent, Stage
from service.lifecycle import audits
from service.lifecycle.job_rows import Level
from worker.supervisor.audit.eta import EtaEstimator
from worker.supervisor.audit.metric_sampling import MetricSampler
from worker.supervisor.audit.step_folder import StepInputs
from worker.supervisor.context import AttemptContext
from worker.supervisor.counters import StageCounters
from worker.supervisor.database import PROGRESS_SECONDS


class EventRecorder:
    """Records the newest progress once a second, a sample of the metrics, and all notices."""

    def __init__(self, context: AttemptContext, inputs: StepInputs, eta: EtaEstimator, counters: StageCounters) -> None:
        """Record events of the step that is made of `inputs`. What cannot be written at once is left out."""
        self._context = context
        self._eta = eta
        self._counters = counters
        training = inputs.spec.training
        self._seed = training.seed
        self._batch_size = training.batch_size
        self._sampler = MetricSampler(steps=-(-inputs.rows // training.batch_size) * training.epochs)
        self._progress: ProgressEvent | None = None
        self._stage: Stage | None = None
        self._written_at = 0.0

    def show(self, event: ProgressEvent) -> None:
        """Record progress of the supervisor's own work, at once."""
        self._counters.enter(event.stage)
        self._write_progress(event)

    def take(self, event: Event) -> None:
        """Record one event of the child, or keep it until it is due."""
        if isinstance(event, MetricEvent):
            self._counters.add_samples(self._batch_size)  # The child sends one such event per optimiser step.
        match event:
            case ProgressEvent():
                self._progress = event
                if event.stage != self._stage:
                    self._counters.enter(event.stage)
                    self._stage = event.stage
                    self.flush(now=True)
            case MetricEvent() if self._sampler.keep(event):
                data = {"seed": self._seed, **event.model_dump(exclude={"type"})}
                self._record("info", "metric", f"Step {event.step}: loss {event.loss:.4g}.", data)
            case NoticeEvent():
                self._record(event.level, "notice", event.message, {"code": event.code})

    def flush(self, *, now: bool = False) -> None:
        """Write the newest progress if it is due, or `now`."""
        self._counters.count()
        event = self._progress
        if event is None or (not now and time.monotonic() - self._written_at < PROGRESS_SECONDS):
            return
        self._progress = None
        self._written_at = time.monotonic()
        self._write_progress(event.model_copy(update={"eta_seconds": self._eta.eta_seconds(event.eta_seconds)}))

    def _write_progress(self, event: ProgressEvent) -> None:
        self._context.database.try_once(lambda session: audits.record_progress(session, self._context.claim, event))

    def _record(self, level: Level, type: str, message: str, data: dict[str, object]) -> None:
        self._context.database.try_once(
            lambda session: audits.record_event(
                session, self._context.claim, level=level, type=type, message=message, data=data
            )
        )
