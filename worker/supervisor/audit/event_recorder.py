"""Writes down what a child reports."""

import time
from collections.abc import Callable

from sqlalchemy.orm import Session

from service.contract.protocol import Event, MetricEvent, NoticeEvent, ProgressEvent, Stage
from service.lifecycle import audits
from service.lifecycle.job_rows import Level
from service.lifecycle.jobs import Claim
from worker.supervisor.audit.eta import EtaEstimator
from worker.supervisor.audit.metric_sampling import MetricSampler
from worker.supervisor.audit.plan import PlannedStep
from worker.supervisor.counters import StageCounters

PROGRESS_SECONDS = 1.0
"""Progress is written to the database at most this often, but for a new stage."""


class EventRecorder:
    """The newest progress once a second, thinned metrics, all notices."""

    def __init__(
        self,
        write: Callable[[Callable[[Session], object]], object],
        claim: Claim,
        work: PlannedStep,
        eta: EtaEstimator,
        counters: StageCounters,
    ):
        """`write` does one transaction, or none while the database is away."""
        self._write = write
        self._claim = claim
        self._eta = eta
        self._counters = counters
        training = work.spec.training
        self._seed = training.seed
        self._batch_size = training.batch_size
        self._sampler = MetricSampler(steps=-(-work.rows // training.batch_size) * training.epochs)
        self._progress: ProgressEvent | None = None
        self._stage: Stage | None = None
        self._written_at = 0.0

    def take(self, event: Event) -> None:
        """One event of the child."""
        if isinstance(event, MetricEvent):
            self._counters.add_samples(self._batch_size)  # one event a step
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
        """Writes the newest progress if its second has passed."""
        self._counters.count()
        event = self._progress
        if event is None or (not now and time.monotonic() - self._written_at < PROGRESS_SECONDS):
            return
        event = event.model_copy(update={"eta_seconds": self._eta.eta_seconds(event.eta_seconds)})
        self._progress = None
        self._written_at = time.monotonic()
        self._write(lambda session: audits.record_progress(session, self._claim, event))

    def _record(self, level: Level, type: str, message: str, data: dict[str, object]) -> None:
        self._write(
            lambda session: audits.record_event(
                session, self._claim, level=level, type=type, message=message, data=data
            )
        )
