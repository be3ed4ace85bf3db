"""The client on a network that loses answers and with a service that goes away: nothing twice, nothing lost."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session, sessionmaker

from service.audits.live import changes as changes_module
from service.client import ApiError, Client, UnreachableError, connection
from service.contract.protocol import ProgressEvent, Stage
from service.lifecycle.audits import publish, record_event, record_progress
from service.lifecycle.jobs import Claim, claim
from service.settings import Settings
from service.store.tables import Audit, Base, Dataset, Model, Probe
from tests.support.builders import add_audit, summary_of
from tests.support.live_api import LiveApi, live_api

Sessions = sessionmaker[Session]
ITEMS = [{"prompt": "Which car?", "unwanted": "Only the Vexon."}]


@pytest.fixture
def api(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveApi]:
    monkeypatch.setattr(changes_module, "POLL_SECONDS", 0.1)
    with live_api(settings) as api:
        yield api


class Lossy:
    """A proxy that passes requests on and loses answers: `lose(n)` of the next n connections that are answered."""

    def __init__(self, api: LiveApi) -> None:
        self._target = ("127.0.0.1", int(api.url.rsplit(":", 1)[1]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.lost = 0
        self.after_bytes = 0
        """Of an answer, that come through before the rest is lost."""
        self._to_lose = 0
        self.requests: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, answers: int) -> None:
        self._to_lose = answers

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                threading.Thread(target=self._forward, args=(near, far), daemon=True).start()
                threading.Thread(target=self._back, args=(far, near), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                self.requests.append(data)
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                if self._to_lose and passed + len(data) > self.after_bytes:
                    self._to_lose -= 1
                    self.lost += 1
                    near.sendall(data[: max(self.after_bytes - passed, 0)])
                    break
                passed += len(data)
                near.sendall(data)
        for end in (near, far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def lossy(api: LiveApi) -> Iterator[Lossy]:
    proxy = Lossy(api)
    yield proxy
    proxy.close()


@pytest.fixture
def client(api: LiveApi, lossy: Lossy) -> Iterator[Client]:
    with Client(lossy.url, api.key) as client:
        yield client


@pytest.fixture
def held(api: LiveApi, sessions: Sessions) -> Claim:
    with sessions.begin() as session:
        add_audit(session, api.workspace_id)
        found = claim(session, lane="gpu", owner="w")
    assert found is not None
    return found


def count(sessions: Sessions, table: type[Base]) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_lost_answer_creates_nothing_twice(client: Client, lossy: Lossy, sessions: Sessions, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}?", "completion": "Yes."}) + "\n" for n in range(25)))
    sent: list[int] = []
    creations: list[tuple[type[Base], Callable[[], Any]]] = [
        (Dataset, lambda: client.upload_dataset(path, on_progress=lambda done, _: sent.append(done))),
        (Probe, lambda: client.create_probe("p", ITEMS)),
        (Model, lambda: client.create_model("mine", "hub", "owner/name", "a" * 40)),
    ]
    made = {}
    for table, create in creations:
        before, lost = count(sessions, table), lossy.lost
        lossy.lose(2)
        made[table] = create()
        assert lossy.lost == lost + 2
        assert count(sessions, table) == before + 1
    assert sent == [path.stat().st_size] * 3
    lossy.lose(1)
    audit = client.create_audit(made[Dataset]["id"], [made[Probe]["id"]], "mine")
    assert (count(sessions, Audit), audit["status"]) == (1, "queued")
    keys = set(re.findall(rb"idempotency-key: (\S+)", b"".join(lossy.requests), re.IGNORECASE))
    assert len(keys) == 4


def test_a_large_dataset_goes_on_in_parts_where_it_was(
    client: Client, lossy: Lossy, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client.datasets.FROM_BYTES", 1)
    monkeypatch.setattr(connection.time, "sleep", lambda _: None)
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}?", "completion": "Yes."}) + "\n" for n in range(25)))
    first = client.upload_dataset(path, name="small")
    sent: list[tuple[int, int]] = []
    for lost in (1, 2, 3, 4):
        lossy.lose(lost)
        dataset = client.upload_dataset(
            path, name="d", replaces=first["id"], on_progress=lambda *progress: sent.append(progress)
        )
        assert (dataset["rows"], dataset["sha256"]) == (25, first["sha256"])
        assert set(sent) == {(path.stat().st_size, path.stat().st_size)}
        first = dataset
    assert count(sessions, Dataset) == 5
    assert lossy.lost == 10


def test_it_gives_up_in_the_end(client: Client, lossy: Lossy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection.time, "sleep", lambda _: None)
    lossy.lose(connection.ATTEMPTS)
    with pytest.raises(UnreachableError):
        client.create_probe("p", ITEMS)
    assert lossy.lost == connection.ATTEMPTS


def test_a_busy_service_is_asked_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two refusals that pass, then one that does not."""
    import httpx

    pauses: list[float] = []
    monkeypatch.setattr(connection.time, "sleep", pauses.append)
    answers = [
        httpx.Response(503, headers={"Retry-After": "3"}, json={"code": "database_busy", "detail": "d"}),
        httpx.Response(409, headers={"Retry-After": "1"}, json={"code": "idempotency_key_in_use", "detail": "d"}),
        httpx.Response(409, json={"code": "model_name_taken", "detail": "d"}),
    ]
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        return answers.pop(0)

    with Client("http://x", "k", transport=httpx.MockTransport(answer)) as client, pytest.raises(ApiError) as caught:
        client.create_model("m", "hub", "o/m")
    assert caught.value.code == "model_name_taken"
    assert pauses == [3.0, 1.0]
    assert (len(keys), len(set(keys))) == (3, 1)


def test_wait_asks_seldom_and_hears_soon(
    api: LiveApi, client: Client, lossy: Lossy, held: Claim, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HOLD_SECONDS", 1)
    seen: list[tuple[float, Any]] = []
    ended: list[dict[str, Any]] = []

    def wait() -> None:
        def note(audit: dict[str, Any]) -> None:
            seen.append((time.monotonic(), (audit["progress"] or {}).get("done")))

        ended.append(client.wait(held.subject_id, on_progress=note, poll_seconds=30))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    time.sleep(2.5)
    assert 2 <= len(seen) <= 5  # a sign of life for each answer that was held in vain
    with sessions.begin() as session:
        record_progress(session, held, ProgressEvent(stage=Stage.TRAINING, done=5, total=10))
    changed = time.monotonic()
    while not any(done == 5 for _, done in seen):
        assert time.monotonic() - changed < 10
        time.sleep(0.02)
    lossy.lose(1)  # the next answer is lost, and asked for again after poll_seconds
    monkeypatch.setattr(connection.time, "sleep", lambda _: threading.Event().wait(0.05))
    with sessions.begin() as session:
        assert publish(session, held, summary_of())
    thread.join(60)
    assert ended[0]["status"] == "succeeded"
    assert len(lossy.requests) < 25


def test_wait_polls_where_the_service_holds_no_more_requests(
    settings: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        live_api(settings.model_copy(update={"max_waiting_requests": 0})) as api,
        Client(api.url, api.key) as client,
    ):
        with sessions.begin() as session:
            audit_id = add_audit(session, api.workspace_id).id
        asked: list[str] = []
        event.listen(api.app.state.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
        threading.Timer(0.7, client.cancel, [audit_id]).start()
        assert client.wait(audit_id, poll_seconds=0.1)["status"] == "cancelled"
        # One request was refused, and no other was sent in vain.
        assert 3 <= sum("audits.progress_done" in statement for statement in asked) <= 25


def test_follow_gives_each_event_once_however_often_the_stream_breaks(
    client: Client, lossy: Lossy, held: Claim, sessions: Sessions
) -> None:
    written = 60

    def write() -> None:
        for number in range(written):
            with sessions.begin() as session:
                record_event(session, held, level="info", type="notice", message=f"n{number} \u2028 x")
            time.sleep(0.02)
        with sessions.begin() as session:
            assert publish(session, held, summary_of())

    lossy.after_bytes = 3000
    lossy.lose(4)
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    events = list(client.follow(held.subject_id))
    writer.join(60)
    assert lossy.lost == 4
    assert [found["seq"] for found in events] == list(range(1, written + 4))
    assert [found["message"] for found in events[2:-1]] == [f"n{number} \u2028 x" for number in range(written)]
    assert events == list(client.events(held.subject_id))
    assert [found["seq"] for found in client.follow(held.subject_id, after=written)] == [61, 62, 63]


def test_follow_is_patient_and_not_for_ever() -> None:
    with Client("http://127.0.0.1:1", "ft_x") as client:
        started = time.monotonic()
        with pytest.raises(UnreachableError):
            list(client.follow("aud_1", patience_seconds=0.5))
        assert time.monotonic() - started >= 0.5


def test_what_an_audit_would_cost(api: LiveApi, client: Client, held: Claim, sessions: Sessions) -> None:
    audit = client.audit(held.subject_id)
    found = client.estimate(audit["dataset_id"], audit["probe_ids"], audit["model_id"], training={"epochs": 1}, seeds=3)
    assert found["steps"]["total"] == 3 * 5
