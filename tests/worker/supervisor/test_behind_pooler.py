"""The whole service on three server connections of a real PgBouncer in transaction mode: nobody sees an error."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.local.postgres import EmbeddedPostgres
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from service.store.local_objects import LocalObjects
from service.store.tables import Audit, Score
from tests.support.children.scripting import FINISHED, OUTPUTS, training_progress
from tests.support.live_api import LiveApi, live_api
from tests.support.pgbouncer import pgbouncer, through
from tests.support.supervisor_bench import Bench
from worker.supervisor.heartbeat import Heartbeat

SERVER_CONNECTIONS = 3
AUDITS = 6
WORKERS = 2
SHORT_LEASE = 6.0
"""Renewed several times an audit."""


@pytest.fixture
def pooled(postgres: EmbeddedPostgres, settings: Settings) -> Iterator[Settings]:
    assert settings.database_url is not None
    with pgbouncer(postgres, pool_size=SERVER_CONNECTIONS) as port:
        url = through(port, settings.database_url.get_secret_value())
        yield Settings(
            **{**settings.model_dump(exclude_unset=True), "database_url": url},
            database_pooler="transaction",
            lease_seconds=SHORT_LEASE,
            reconcile_seconds=0.3,
        )


@pytest.fixture
def api(pooled: Settings) -> Iterator[LiveApi]:
    with live_api(pooled) as api:
        yield api


def worker_sessions(settings: Settings) -> sessionmaker[Session]:
    """As a worker process has them."""
    assert settings.database_url is not None
    return make_sessions(
        make_engine(
            settings.database_url.get_secret_value(),
            pool_size=5,
            idle_transaction_seconds=settings.lease_seconds,
            pooler=settings.database_pooler,
            application_name="worker",
        )
    )


class Clients:
    """Requests of every kind, one after the other, by threads that end when told to."""

    def __init__(self, api: LiveApi, audits: list[str]) -> None:
        self._api, self._audits = api, audits
        self.over = threading.Event()
        self.answers: dict[str, list[int]] = {}

    def ask(self, kind: str, number: int) -> None:
        with httpx.Client(
            base_url=self._api.url, headers={"Authorization": f"Bearer {self._api.key}"}, timeout=30
        ) as http:
            tags: dict[str, str] = {}
            while not self.over.is_set():
                audit = f"/v1/audits/{self._audits[number % len(self._audits)]}"
                number += 1
                match kind:
                    case "plain":
                        answer = http.get(audit)
                    case "etag":
                        answer = http.get(audit, headers={"If-None-Match": tags.get(audit, '"none"')})
                        tags[audit] = answer.headers["etag"]
                    case "long-poll":
                        answer = http.get(audit, headers={"If-None-Match": tags.get(audit, '"n"'), "Prefer": "wait=1"})
                        tags[audit] = answer.headers["etag"]
                    case "list":
                        answer = http.get("/v1/audits", params={"limit": 3})
                    case "create":
                        answer = http.post(
                            "/v1/probes",
                            json={"name": f"{kind} {number}", "items": [{"prompt": "a", "unwanted": "b"}]},
                            headers={"Idempotency-Key": f"{kind}-{number}"},
                        )
                    case _:
                        answer = http.get(kind)
                self.answers.setdefault(kind, []).append(answer.status_code)

    def stream(self, audit: str) -> None:
        with (
            httpx.Client(base_url=self._api.url, headers={"Authorization": f"Bearer {self._api.key}"}) as http,
            http.stream("GET", f"/v1/audits/{audit}/events", headers={"Accept": "text/event-stream"}) as answer,
        ):
            states = [line for line in answer.iter_lines() if line.startswith("data:") and '"succeeded"' in line]
        self.answers.setdefault("stream", []).append(answer.status_code)
        assert states


KINDS = ("plain", "plain", "etag", "etag", "long-poll", "long-poll", "list", "create", "/readyz", "/metrics")


def test_polling_and_the_work_of_audits_side_by_side(
    pooled: Settings,
    api: LiveApi,
    sessions: sessionmaker[Session],
    objects: LocalObjects,
    make_audit: Callable[..., Audit],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    audits = [make_audit().id for _ in range(AUDITS)]
    clients = Clients(api, audits)
    stopping = threading.Event()
    bench = Bench(pooled, worker_sessions(pooled), objects, stopping)
    steps = [training_progress(number) for number in range(8)]
    script = [part for step in steps for part in (step, ["sleep", 0.4])]
    supervisors = [bench.supervisor(*script, OUTPUTS, FINISHED, owner=f"w{number}") for number in range(WORKERS)]
    beats = [Heartbeat(worker_sessions(pooled), owner=f"w{n}", lane="gpu", seconds=0.1) for n in range(WORKERS)]
    for beat in beats:
        beat.start()
    with ThreadPoolExecutor(len(KINDS) + 2 + WORKERS) as threads:
        asking = [threads.submit(clients.ask, kind, number) for number, kind in enumerate(KINDS)]
        asking += [threads.submit(clients.stream, audit) for audit in audits[:2]]
        working = [threads.submit(supervisor.run_due, "gpu") for supervisor in supervisors]
        try:
            ran = [worker.result(240) for worker in working]
        finally:
            time.sleep(1)
            clients.over.set()
        for client in asking:
            client.result(60)
    for beat in beats:
        beat.stop()
    for fork_client in bench.fork_clients:
        fork_client.close()
    assert sum(ran) == AUDITS
    assert min(ran) > 0
    for kind, statuses in clients.answers.items():
        assert set(statuses) <= {200, 201, 304}, kind
        assert len(statuses) >= 2, kind
    assert set(clients.answers) == {*KINDS, "stream"}
    with sessions() as session:
        for audit_id in audits:
            audit = session.get_one(Audit, audit_id)
            assert audit.published_attempt == 1
        assert session.query(Score).count() == 40 * AUDITS
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
