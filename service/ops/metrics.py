"""/metrics in the format of Prometheus: what the database knows of jobs and workers, and how requests were answered.

Whatever concerns jobs is read from the database at each scrape, so that every API process gives the same figures and
none is lost with a worker. Labels hold queues, states, stages, codes and route templates: nothing of a workspace.
"""

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.contract.failure import ErrorCode
from service.contract.protocol import Stage
from service.lifecycle.workers import is_alive
from service.settings import LANES
from service.store.counters import Counted, read_counters
from service.store.tables import Job, Worker

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""The Prometheus client's own variable: a folder through which processes of one API share what they count."""

ENDINGS = ("published", "cancelled", "released", *map(str, ErrorCode))
"""How an attempt may end."""

STAGES = tuple(map(str, Stage))
"""The stages of an audit, as labels."""

log = logging.getLogger(__name__)


class RequestMetrics:
    """How many requests were answered, how, and how fast. One for each application."""

    def __init__(self) -> None:
        self._shared = MULTIPROCESS in os.environ
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "finetooth_http_request_seconds",
            "Time from a request's first byte to the end of its answer.",
            ["method", "route", "status"],
            registry=None if self._shared else self._registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended.

        Args:
            method: Its method.
            route: The path of its route, with names for ids.
            status: Status of the answer; 0: the client went away before one.
            seconds: How long it took.
        """
        self._seconds.labels(method, route, f"{status // 100}xx" if status else "aborted").observe(seconds)

    def collect(self) -> bytes:
        """Return the counts so far, in the text format of Prometheus."""
        if self._shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
            return generate_latest(registry)
        if multiprocessing.parent_process() is not None:
            log.warning("requests are not in /metrics: with several processes, set %s to a folder", MULTIPROCESS)
            return b""
        return generate_latest(self._registry)


class MeasuredRequests:
    """ASGI middleware: tells RequestMetrics about every request, by its route's template."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and count it, by method, route, status and time.

        Args:
            scope: What ASGI tells of the request.
            receive: Returns what the client sends next.
            send: Sends a part of the answer.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0
        started = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            # Anybody can send any method and any path; a series is made for those that there are.
            route = getattr(scope.get("route"), "path", None)
            method = scope["method"] if route is not None else "any"
            self.metrics.observe(method, route or "unknown", status, time.perf_counter() - started)


class JobMetrics(Collector):
    """What the database knows, at this moment."""

    def __init__(self, session: Session, heartbeat_seconds: float) -> None:
        self._session = session
        self._heartbeat_seconds = heartbeat_seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as the database has them now."""
        states = GaugeMetricFamily("finetooth_jobs", "Jobs by queue and state.", labels=["queue", "state"])
        for lane, state, number in self._session.execute(
            select(Job.lane, Job.state, func.count()).group_by(Job.lane, Job.state).order_by(Job.lane, Job.state)
        ):
            states.add_metric([lane, state], number)
        yield states
        age = GaugeMetricFamily(
            "finetooth_queue_age_seconds", "How long the oldest due job of the queue has waited.", labels=["queue"]
        )
        ages = queue_ages(self._session)
        for lane in LANES:
            age.add_metric([lane], ages[lane])
        yield age
        workers = GaugeMetricFamily("finetooth_workers", "Workers that are alive.", labels=["queue", "state"])
        alive = self._workers()
        for lane in LANES:
            for state, busy in (("busy", True), ("idle", False)):
                workers.add_metric([lane, state], alive.get((lane, busy), 0))
        yield workers
        devices = GaugeMetricFamily(
            "finetooth_worker_devices",
            "Workers of the queue gpu that are alive, by what they train on.",
            labels=["device"],
        )
        for device, number in self._devices():
            devices.add_metric([device], number)
        yield devices
        yield from self._counters()

    def _devices(self) -> list[tuple[str, int]]:
        name = func.coalesce(Worker.device, "unknown")
        alive = is_alive(self._heartbeat_seconds)
        found = self._session.execute(
            select(name, func.count()).where(Worker.lane == "gpu", alive).group_by(name).order_by(name)
        )
        return [(device, number) for device, number in found]

    def _workers(self) -> dict[tuple[str, bool], int]:
        """(queue, whether it holds a job) to how many there are."""
        held = select(Job.id).where(Job.owner == Worker.owner, Job.lease_expires_at.is_not(None))
        busy = held.exists().label("busy")
        found = self._session.execute(
            select(Worker.lane, busy, func.count()).where(is_alive(self._heartbeat_seconds)).group_by(Worker.lane, busy)
        )
        return {(lane, holds): number for lane, holds, number in found}

    def _counters(self) -> Iterator[Metric]:
        counters = read_counters(self._session)
        for counted, name, text, label, known in (
            (
                Counted.STARTED,
                "finetooth_attempts_started",
                "Attempts that workers have begun, by queue.",
                "queue",
                LANES,
            ),
            (Counted.ATTEMPTS, "finetooth_attempts", "Attempts that ended, by how.", "reason", ENDINGS),
            (Counted.STAGE_SECONDS, "finetooth_stage_seconds", "Time that attempts spent, by stage.", "stage", STAGES),
        ):
            family = CounterMetricFamily(name, text, labels=[label])
            # Those that never were are 0: where a series begins with its first event, no rate shows that event.
            totals = dict.fromkeys(known, 0.0) | {
                value: total for (found, value), total in counters.items() if found == counted
            }
            for value, total in sorted(totals.items()):
                family.add_metric([value], total)
            yield family
        for name, text, total in (
            (
                "finetooth_lease_expiries",
                "Attempts whose worker was not heard of for a lease.",
                counters.get((Counted.ATTEMPTS, "lease_lost"), 0.0),
            ),
            (
                "finetooth_fenced_attempts",
                "Attempts whose worker was refused, or stopped by itself, as the job was no longer its own.",
                counters.get((Counted.FENCED, ""), 0.0),
            ),
            (
                "finetooth_training_samples",
                "Samples trained on; over finetooth_stage_seconds of training, samples per second.",
                counters.get((Counted.SAMPLES, ""), 0.0),
            ),
        ):
            yield CounterMetricFamily(name, text, value=total)


def queue_ages(session: Session) -> dict[str, float]:
    """Seconds that the oldest due job of each queue has waited; 0 where none is due."""
    now = func.statement_timestamp()
    waited = func.extract("epoch", now - func.min(Job.next_attempt_at))
    found = session.execute(
        select(Job.lane, waited).where(Job.state == "queued", Job.next_attempt_at <= now).group_by(Job.lane)
    )
    return dict.fromkeys(LANES, 0.0) | {lane: max(0.0, float(seconds)) for lane, seconds in found}


def exposition(session: Session, requests: RequestMetrics, *, heartbeat_seconds: float) -> bytes:
    """Return the whole answer to a scrape, in the text format of Prometheus.

    Args:
        session: An open transaction.
        requests: The counters of this process's requests.
        heartbeat_seconds: How often workers report.
    """
    registry = CollectorRegistry()
    registry.register(JobMetrics(session, heartbeat_seconds))
    return generate_latest(registry) + requests.collect()
