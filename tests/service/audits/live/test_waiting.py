"""Long-polls and event streams on a real server: told in time, of everything once, and holding nothing meanwhile."""

import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event, text, update
from sqlalchemy.orm import Session, sessionmaker

from service.audits.live import changes as changes_module
from service.audits.live import event_stream as stream_module
from service.audits.live.changes import AuditChanges
from service.audits.live.versions import read_versions
from service.contract.protocol import ProgressEvent, Stage
from service.http.streaming import sse as sse_module
from service.keys.secrets import create_key
from service.lifecycle.audits import publish, record_event, record_progress, request_cancel
from service.lifecycle.jobs import Claim, claim, renew
from service.local.postgres import EmbeddedPostgres
from service.migration import migrate
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from service.store.seed import ensure_workspace
from service.store.tables import ApiKey
from tests.support.builders import add_audit, summary_of
from tests.support.live_api import LiveApi, live_api

Sessions = sessionmaker[Session]

SOON = 10.0
"""Seconds within which something happens even on a machine that does much else."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rhythm of the tests; that of the service is a second."""
    monkeypatch.setattr(changes_module, "POLL_SECONDS", 0.1)


@pytest.fixture
def api(settings: Settings) -> Iterator[LiveApi]:
    with live_api(settings.model_copy(update={"max_waiting_requests": 60})) as api:
        yield api


@pytest.fixture
def http(api: LiveApi) -> Iterator[httpx.Client]:
    with client_of(api) as client:
        yield client


def client_of(api: LiveApi, key: str | None = None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key or api.key}"}
    limits = httpx.Limits(max_connections=None)
    return httpx.Client(base_url=api.url, headers=headers, timeout=60, limits=limits, trust_env=False)


@pytest.fixture
def held(api: LiveApi, sessions: Sessions) -> Claim:
    """A running audit."""
    with sessions.begin() as session:
        add_audit(session, api.workspace_id)
        found = claim(session, lane="gpu", owner="w")
    assert found is not None
    return found


def progress(sessions: Sessions, held: Claim, done: int) -> None:
    with sessions.begin() as session:
        assert record_progress(session, held, ProgressEvent(stage=Stage.TRAINING, done=done, total=100))


def notice(sessions: Sessions, held: Claim, message: str) -> None:
    with sessions.begin() as session:
        assert record_event(session, held, level="info", type="notice", message=message)


def end(sessions: Sessions, held: Claim) -> None:
    with sessions.begin() as session:
        assert publish(session, held, summary_of())


def wait_for(condition: Callable[[], object], seconds: float = SOON) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.02)


def waiting(api: LiveApi) -> int:
    changes: AuditChanges = api.app.state.audit_changes
    return changes.places_taken


def tag_of(http: httpx.Client, held: Claim) -> str:
    return http.get(f"/v1/audits/{held.subject_id}").headers["etag"]


def poll(http: httpx.Client, held: Claim, tag: str, wait: int = 30) -> httpx.Response:
    return http.get(f"/v1/audits/{held.subject_id}", headers={"If-None-Match": tag, "Prefer": f"wait={wait}"})


class TestLongPolls:
    def test_told_when_it_changes(self, api: LiveApi, http: httpx.Client, held: Claim, sessions: Sessions) -> None:
        tag = tag_of(http, held)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(poll, http, held, tag)
            wait_for(lambda: waiting(api) == 1)
            with sessions.begin() as session:  # nothing that a poller could see
                assert renew(session, held)
            notice(sessions, held, "Something to read.")
            time.sleep(0.5)
            assert not answer.done()
            progress(sessions, held, 7)
            changed = answer.result(SOON)
        assert (changed.status_code, changed.json()["progress"]["done"]) == (200, 7)
        assert changed.headers["etag"] != tag
        assert changed.headers["preference-applied"] == "wait=30"
        assert waiting(api) == 0

    def test_nothing_new_is_304_after_the_time(self, http: httpx.Client, held: Claim) -> None:
        tag = tag_of(http, held)
        started = time.monotonic()
        answer = poll(http, held, tag, wait=1)
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
        assert 1 <= time.monotonic() - started < SOON

    @pytest.mark.parametrize(
        ("headers", "applied"),
        [
            ({"Prefer": "wait=30"}, None),
            ({"Prefer": "wait=30", "If-None-Match": '"old"'}, "wait=30"),
            ({"Prefer": 'respond-async, Wait = "999999"; x=y', "If-None-Match": '"old"'}, "wait=60"),
            ({"Prefer": "wait=-1", "If-None-Match": '"old"'}, None),
            ({"Prefer": "await=5, wait=x", "If-None-Match": '"old"'}, None),
        ],
    )
    def test_what_is_new_already_is_answered_at_once(
        self, http: httpx.Client, held: Claim, headers: dict[str, str], applied: str | None
    ) -> None:
        answer = http.get(f"/v1/audits/{held.subject_id}", headers=headers, timeout=SOON)
        assert (answer.status_code, answer.headers.get("preference-applied")) == (200, applied)

    def test_many_wait_on_two_connections_and_one_reader(
        self, settings: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changes_module, "POLL_SECONDS", 0.5)
        few = settings.model_copy(update={"database_pool_size": 2})
        with live_api(few) as api, client_of(api) as http, ThreadPoolExecutor(50) as pool:
            audits = []
            for _ in range(5):
                with sessions.begin() as session:
                    add_audit(session, api.workspace_id)
                    found = claim(session, lane="gpu", owner="w")
                    assert found is not None
                    audits.append(found)
            tags = [tag_of(http, held) for held in audits]
            answers = [pool.submit(poll, http, audits[n % 5], tags[n % 5]) for n in range(50)]
            wait_for(lambda: waiting(api) == 50)
            time.sleep(0.6)
            reads: list[float] = []
            event.listen(
                api.app.state.engine,
                "before_cursor_execute",
                lambda *args: reads.append(time.monotonic()) if "max(audit_events.seq)" in args[2] else None,
            )
            started = time.monotonic()
            for _ in range(20):
                assert http.get("/v1/info").status_code == 200
            assert time.monotonic() - started < 5  # were threads or sessions held, none would be answered
            with sessions() as session:
                in_use = session.scalar(
                    text(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'finetooth-api' "
                        "AND datname = current_database() AND state LIKE 'idle in transaction%'"
                    )
                )
            assert in_use == 0
            time.sleep(2)
            assert 2 <= len(reads) <= 2 * (time.monotonic() - started) + 1
            progress(sessions, audits[2], 1)
            told = [answer for n, answer in enumerate(answers) if n % 5 == 2]
            assert {answer.result(SOON).status_code for answer in told} == {200}
            assert waiting(api) == 40
            for held in audits:
                end(sessions, held)
            assert {answer.result(SOON).status_code for answer in answers} == {200}
            wait_for(lambda: waiting(api) == 0)
            time.sleep(0.6)
            reads.clear()
            time.sleep(1.5)
            assert reads == []

    def test_a_client_that_goes_away_gives_its_place_back(self, api: LiveApi, http: httpx.Client, held: Claim) -> None:
        tag = tag_of(http, held)
        for _ in range(3):
            with client_of(api) as other:
                other.timeout = httpx.Timeout(5, read=0.5)
                with pytest.raises(httpx.ReadTimeout):
                    poll(other, held, tag, wait=60)
        wait_for(lambda: waiting(api) == 0, seconds=3)

    def test_one_too_many_is_asked_to_come_again(
        self, settings: Settings, sessions: Sessions, http: httpx.Client
    ) -> None:
        with live_api(settings.model_copy(update={"max_waiting_requests": 1})) as api, client_of(api) as http:
            with sessions.begin() as session:
                audit_id = add_audit(session, api.workspace_id).id
            path = f"/v1/audits/{audit_id}"
            known = {"If-None-Match": http.get(path).headers["etag"], "Prefer": "wait=30"}
            with http.stream("GET", f"{path}/events", headers={"Accept": "text/event-stream"}) as stream:
                assert stream.status_code == 200
                for headers, address in [(known, path), ({"Accept": "text/event-stream"}, f"{path}/events")]:
                    refused = http.get(address, headers=headers, timeout=SOON)
                    assert (refused.status_code, refused.json()["code"]) == (503, "too_many_waiting")
                    assert int(refused.headers["retry-after"]) > 0
                assert http.get(path).status_code == 200
            wait_for(lambda: waiting(api) == 0)

    def test_what_a_read_found_that_began_before_is_no_news(
        self,
        api: LiveApi,
        http: httpx.Client,
        held: Claim,
        sessions: Sessions,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A read is under way and has seen the old audit; who has seen the new one must not be told of the old one."""
        has_read, goes_on = threading.Event(), threading.Event()

        def slow(session: Session, audit_ids: set[str]) -> Any:
            found = read_versions(session, audit_ids)
            has_read.set()
            assert goes_on.wait(SOON)
            return found

        old = tag_of(http, held)
        monkeypatch.setattr(changes_module, "read_versions", slow)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(poll, http, held, old)
            assert has_read.wait(SOON)
            progress(sessions, held, 5)
            second = pool.submit(poll, http, held, tag_of(http, held), 2)
            wait_for(lambda: waiting(api) == 2)
            goes_on.set()
            assert first.result(SOON).status_code == 200
            assert second.result(SOON).status_code == 304
        assert second.result().elapsed.total_seconds() >= 2

    def test_another_workspaces_audit_is_404_at_once(
        self, api: LiveApi, http: httpx.Client, held: Claim, sessions: Sessions, other_workspace_id: str
    ) -> None:
        with sessions.begin() as session:
            _, key = create_key(session, workspace_id=other_workspace_id, name="x", scopes=["admin"])
        tag = tag_of(http, held)
        with client_of(api, key) as stranger:
            assert poll(stranger, held, tag).status_code == 404
            path = f"/v1/audits/{held.subject_id}/events"
            assert stranger.get(path, headers={"Accept": "text/event-stream"}).status_code == 404
        assert waiting(api) == 0


# ---------------------------------------------------------------- event streams

STREAM = {"Accept": "text/event-stream"}


class Stream:
    """What a stream has sent so far, read in a thread."""

    def __init__(self, http: httpx.Client, audit_id: str, after: int | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.comments = 0
        self.retry: int | None = None
        self.response: httpx.Response | None = None
        self._http, self._path = http, f"/v1/audits/{audit_id}/events"
        self._headers = STREAM if after is None else {**STREAM, "Last-Event-ID": str(after)}
        self._cut = threading.Event()
        self._done: Future[None] = Future()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            with self._http.stream("GET", self._path, headers=self._headers) as response:
                self.response = response
                for block in blocks(response.iter_lines()):
                    if block.get("comment"):
                        self.comments += 1
                    if "retry" in block:
                        self.retry = int(block["retry"])
                    if "data" in block:
                        data = json.loads(block["data"])
                        assert (block["id"], block["event"]) == (str(data["seq"]), data["type"])
                        self.events.append(data)
                    if self._cut.is_set():
                        break
            self._done.set_result(None)
        except BaseException as error:
            self._done.set_exception(error)

    @property
    def messages(self) -> list[str]:
        return [event["message"] for event in self.events]

    @property
    def over(self) -> bool:
        return self._done.done()

    def wait(self) -> None:
        self._done.result(SOON)

    def cut(self) -> None:
        """Leaves after what is under way."""
        self._cut.set()


def blocks(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """A stream's blocks by the rules of the HTML standard, as far as they are used."""
    block: dict[str, str] = {}
    for line in lines:
        if not line:
            yield block
            block = {}
        elif line.startswith(":"):
            block["comment"] = line[1:].strip()
        else:
            name, _, value = line.partition(":")
            assert name in ("id", "event", "data", "retry"), line
            assert name not in block, line
            block[name] = value.removeprefix(" ")


class TestEventStreams:
    def test_every_event_once_and_an_end(
        self, api: LiveApi, http: httpx.Client, held: Claim, sessions: Sessions
    ) -> None:
        stream = Stream(http, held.subject_id)
        wait_for(lambda: stream.messages == ["Queued.", "Attempt 1 started."])
        notice(sessions, held, "Line one.\nLine two: \u2028 \U0001f40d")
        wait_for(lambda: stream.messages[2:] == ["Line one.\nLine two: \u2028 \U0001f40d"])
        progress(sessions, held, 1)
        wait_for(lambda: stream.messages[3:] == ["Training."])
        assert not stream.over
        end(sessions, held)
        stream.wait()
        assert stream.events == http.get(f"/v1/audits/{held.subject_id}/events").json()["data"]
        assert stream.events[-1]["data"]["state"] == "succeeded"
        assert stream.retry == 2000
        assert stream.response is not None
        headers = stream.response.headers
        assert headers["content-type"].startswith("text/event-stream")
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
        wait_for(lambda: waiting(api) == 0)
        # A browser comes back after every end; 204 tells it to stay away.
        path = f"/v1/audits/{held.subject_id}/events"
        assert http.get(path, headers={**STREAM, "Last-Event-ID": "5"}).status_code == 204
        assert http.get(path, headers={**STREAM, "Last-Event-ID": "4"}).status_code == 200

    def test_resumed_without_loss_or_doubles(self, http: httpx.Client, held: Claim, sessions: Sessions) -> None:
        """A stream that is cut again and again, while events are written as fast as they can be."""
        written = 250

        def write() -> None:
            for number in range(written):
                notice(sessions, held, f"n{number}")
            end(sessions, held)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        seen: list[dict[str, Any]] = []
        chance = random.Random(5)
        streams = 0
        while not seen or seen[-1]["type"] != "state" or seen[-1]["data"]["state"] != "succeeded":
            stream = Stream(http, held.subject_id, after=seen[-1]["seq"] if seen else None)
            wanted = chance.randint(1, 40)
            wait_for(lambda s=stream, w=wanted: len(s.events) >= w or s.over)  # type: ignore[misc]
            stream.cut()
            notice_end = time.monotonic() + SOON
            while not stream.over and time.monotonic() < notice_end:
                time.sleep(0.02)
            # Whatever else has come is not looked at, as by a reader that died: so there are many streams.
            seen += stream.events[:wanted]
            streams += 1
        writer.join(SOON)
        assert streams > 4
        assert [event["seq"] for event in seen] == list(range(1, written + 4))
        assert [event["message"] for event in seen[2:-1]] == [f"n{number}" for number in range(written)]

    def test_after_and_a_wrong_last_event_id(self, http: httpx.Client, held: Claim, sessions: Sessions) -> None:
        path = f"/v1/audits/{held.subject_id}/events"
        cursor = http.get(path, params={"limit": 1}).json()["next_after"]
        end(sessions, held)
        whole = http.get(path, headers=STREAM, params={"after": cursor}).text
        assert "id: 1\n" not in whole
        assert "id: 2\n" in whole
        # The browser's own memory of where it was comes first.
        assert "id: 2\n" not in http.get(path, headers={**STREAM, "Last-Event-ID": "2"}, params={"after": cursor}).text
        for wrong in ["x", "-1", "1.5", "\u0663".encode(), "9" * 19]:
            refused = http.get(path, headers={**STREAM, "Last-Event-ID": wrong})
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), wrong

    def test_heartbeats_while_nothing_happens(
        self, http: httpx.Client, held: Claim, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.2)
        stream = Stream(http, held.subject_id)
        wait_for(lambda: stream.comments >= 3)
        assert len(stream.events) == 2
        end(sessions, held)
        stream.wait()

    def test_a_revoked_key_ends_the_stream(
        self, api: LiveApi, held: Claim, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert stream_module.AUTHENTICATED_SECONDS + stream_module.HEARTBEAT_SECONDS < 60
        monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.2)
        monkeypatch.setattr(stream_module, "AUTHENTICATED_SECONDS", 0.5)
        with sessions.begin() as session:
            key, secret = create_key(session, workspace_id=api.workspace_id, name="x", scopes=["findings:read"])
        with client_of(api, secret) as http:
            stream = Stream(http, held.subject_id)
            wait_for(lambda: stream.comments >= 5)  # looked up again, and still good
            assert not stream.over
            with sessions.begin() as session:
                session.execute(update(ApiKey).where(ApiKey.id == key.id).values(revoked_at=text("now()")))
            stream.wait()
        wait_for(lambda: waiting(api) == 0)

    def test_a_client_that_goes_away_gives_its_place_back(self, api: LiveApi, held: Claim) -> None:
        for _ in range(3):
            with client_of(api) as http, http.stream("GET", f"/v1/audits/{held.subject_id}/events", headers=STREAM):
                assert waiting(api) >= 1
        wait_for(lambda: waiting(api) == 0, seconds=3)

    def test_a_client_that_reads_nothing_holds_nothing_and_is_let_go(
        self, api: LiveApi, http: httpx.Client, held: Claim, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sse_module, "PATIENCE_SECONDS", 2.0)
        with sessions.begin() as session:
            for _ in range(400):
                record_event(session, held, level="info", type="notice", message="x" * 50_000)
        host, port = api.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(
                f"GET /v1/audits/{held.subject_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {api.key}\r\nAccept: text/event-stream\r\n\r\n".encode()
            )
            wait_for(lambda: waiting(api) == 1)
            time.sleep(0.5)
            with sessions() as session:
                busy = session.scalar(
                    text(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'finetooth-api' "
                        "AND datname = current_database() AND state <> 'idle'"
                    )
                )
            assert busy == 0
            assert http.get("/v1/info").status_code == 200
            wait_for(lambda: waiting(api) == 0)


# ---------------------------------------------------------------- what happens to the server meanwhile


@contextmanager
def own_postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "pg", log=folder / "pg.log", settings={"fsync": "off"})
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_a_restart_of_the_database_is_waited_out(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.3)
    monkeypatch.setattr(stream_module, "AUTHENTICATED_SECONDS", 0.3)
    with own_postgres(tmp_path_factory.mktemp("p")) as server:
        url = server.url("postgres")
        migrate(url)
        with live_api(settings.model_copy(update={"database_url": type(settings.database_url)(url)})) as api:
            engine = make_engine(url, application_name="test")
            sessions = make_sessions(engine)
            with sessions.begin() as session:
                ensure_workspace(session)
                add_audit(session, api.workspace_id)
                held = claim(session, lane="gpu", owner="w", lease_seconds=3600)
            assert held is not None
            with client_of(api) as http, ThreadPoolExecutor(1) as pool:
                answer = pool.submit(poll, http, held, tag_of(http, held), 60)
                stream = Stream(http, held.subject_id)
                wait_for(lambda: waiting(api) == 2 and len(stream.events) == 2)
                server.stop()
                time.sleep(1.0)
                server.start()
                engine.dispose()
                notice(sessions, held, "Back.")
                progress(sessions, held, 3)
                changed = answer.result(2 * SOON)
                assert (changed.status_code, changed.json()["progress"]["done"]) == (200, 3)
                wait_for(lambda: stream.messages[2:] == ["Back.", "Training."])
                with sessions.begin() as session:
                    request_cancel(session, workspace_id=api.workspace_id, audit_id=held.subject_id)
                wait_for(lambda: stream.messages[4:] == ["Cancel requested."])
                assert [event["seq"] for event in stream.events] == [1, 2, 3, 4, 5]
                stream.cut()
            engine.dispose()


@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_a_server_that_is_told_to_stop_ends_those_who_wait(
    settings: Settings, sessions: Sessions, workspace_id: str, signal: str
) -> None:
    with sessions.begin() as session:
        _, key = create_key(session, workspace_id=workspace_id, name="x", scopes=["admin"])
        add_audit(session, workspace_id)
        held = claim(session, lane="gpu", owner="w")
    assert held is not None
    assert settings.database_url is not None
    environment = {
        "PATH": "/usr/bin:/bin",
        "FINETOOTH_DATABASE_URL": settings.database_url.get_secret_value(),
        "FINETOOTH_DATA_DIR": str(settings.data_dir),
    }
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app", "--fd", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env=environment,
            cwd=Path(__file__).parents[3],
            stderr=subprocess.PIPE,
            text=True,
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        api = LiveApi(url, key, workspace_id, None)  # type: ignore[arg-type]
        with client_of(api) as http, ThreadPoolExecutor(1) as pool:
            tag = tag_of(http, held)
            answer = pool.submit(poll, http, held, tag, 60)
            stream = Stream(http, held.subject_id)
            wait_for(lambda: len(stream.events) == 2)
            time.sleep(0.5)
            told = time.monotonic()
            process.send_signal(getattr(__import__("signal"), f"SIG{signal}"))
            assert answer.result(SOON).status_code == 304
            stream.wait()
        process.wait(SOON)
        assert time.monotonic() - told < 5
        assert process.stderr is not None
        errors = process.stderr.read()
        assert "Traceback" not in errors, errors
    finally:
        process.kill()
        process.wait()
