"""Event streams on a real server: every event once, and an end."""

import random
import socket
import threading
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import text, update

from service.audits.live import event_stream as stream_module
from service.http.streaming import sse as sse_module
from service.keys.secrets import create_key
from service.lifecycle.audits import record_event
from service.lifecycle.jobs import Claim
from service.store.tables import ApiKey
from tests.support.live_api import LiveApi
from tests.support.live_audits import STREAM, Sessions, Stream, client_of, end, notice, progress, waiting
from tests.support.waiting import SOON, wait_for


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
        wait_for(lambda: waiting(api) == 0)

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
