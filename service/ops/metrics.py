"""/metrics in the format of Prometheus: what the database knows of jobs and workers, and how requests were answered.

Whatever concerns jobs is read from the database at each scrape, so that every API process gives the same figures and
none is lost with a worker. Labels hold lanes, states, stages, codes and route templates: nothing of a workspace.
"""

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from datetime import timedelta

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Interval, func, literal, select
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.settings import LANES, MISSED_BEATS
from service.store.counters import Counted, read_counters
from service.store.tables import Job, Worker

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""The Prometheus client's own variable: a folder through which processes of one API share what they count."""

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
        self._seconds.labels(method, route, f"{status // 100}xx" if status else "aborted").observe(seconds)

    def collect(self) -> bytes:
        """Nothing from one of several processes that share nothing: its share would pass for the whole."""
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
        states = GaugeMetricFamily("finetooth_jobs", "Jobs by lane and state.", labels=["lane", "state"])
        for lane, state, number in self._session.execute(
            select(Job.lane, Job.state, func.count()).group_by(Job.lane, Job.state).order_by(Job.lane, Job.state)
        ):
            states.add_metric([lane, state], number)
        yield states
        age = GaugeMetricFamily(
            "finetooth_queue_age_seconds", "How long the oldest due job of the lane has waited.", labels=["lane"]
        )
        ages = queue_ages(self._session)
        for lane in LANES:
            age.add_metric([lane], ages[lane])
        yield age
        workers = GaugeMetricFamily("finetooth_workers", "Workers that are alive.", labels=["lane", "state"])
        alive = self._workers()
        for lane in LANES:
            for state, busy in (("busy", True), ("idle", False)):
                workers.add_metric([lane, state], alive.get((lane, busy), 0))
        yield workers
        yield from self._counters()

    def _workers(self) -> dict[tuple[str, bool], int]:
        """(lane, whether it holds a job) to how many there are."""
        patience = timedelta(seconds=MISSED_BEATS * self._heartbeat_seconds)
        held = select(Job.id).where(Job.owner == Worker.owner, Job.lease_expires_at.is_not(None))
        busy = held.exists().label("busy")
        found = self._session.execute(
            select(Worker.lane, busy, func.count())
            .where(Worker.seen_at > func.statement_timestamp() - literal(patience, Interval()))
            .group_by(Worker.lane, busy)
        )
        return {(lane, holds): number for lane, holds, number in found}

    def _counters(self) -> Iterator[Metric]:
        counters = read_counters(self._session)
        for counted, name, text, label in (
            (Counted.STARTED, "finetooth_attempts_started", "Attempts that workers have begun, by lane.", "lane"),
            (Counted.ATTEMPTS, "finetooth_attempts", "Attempts that ended, by how.", "reason"),
            (Counted.STAGE_SECONDS, "finetooth_stage_seconds", "Time that attempts spent, by stage.", "stage"),
        ):
            family = CounterMetricFamily(name, text, labels=[label])
            for (found, value), total in sorted(counters.items()):
                if found == counted:
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
    """Seconds that the oldest due job of each lane has waited; 0 where none is due."""
    now = func.statement_timestamp()
    waited = func.extract("epoch", now - func.min(Job.next_attempt_at))
    found = session.execute(
        select(Job.lane, waited).where(Job.state == "queued", Job.next_attempt_at <= now).group_by(Job.lane)
    )
    return dict.fromkeys(LANES, 0.0) | {lane: max(0.0, float(seconds)) for lane, seconds in found}


def exposition(session: Session, requests: RequestMetrics, *, heartbeat_seconds: float) -> bytes:
    """The whole answer to a scrape. heartbeat_seconds: how often workers say that they are alive."""
    registry = CollectorRegistry()
    registry.register(JobMetrics(session, heartbeat_seconds))
    return generate_latest(registry) + requests.collect()
