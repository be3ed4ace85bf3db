"""The stream of an audit's page on a real server: every change once, resumed by Last-Event-ID, and an end."""

import json
import threading
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import text

from service.audits.live import changes as changes_module
from service.audits.live import event_stream
from service.keys.secrets import create_key
from service.lifecycle.audits import request_cancel
from service.lifecycle.jobs import Claim, claim
from service.settings import Settings
from service.store.score_lists import add_lists
from tests.support.builders import add_audit
from tests.support.live_api import LiveApi, live_api
from tests.support.live_audits import blocks, client_of, end, notice, progress, waiting
from tests.support.pages import Page, Sessions
from tests.support.waiting import SOON, wait_for


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.3)


@pytest.fixture
def api(settings: Settings) -> Iterator[LiveApi]:
    with live_api(settings) as api:
        yield api


@pytest.fixture
def http(api: LiveApi) -> Iterator[httpx.Client]:
    with client_of(api) as client:
        yield client


@pytest.fixture
def held(api: LiveApi, sessions: Sessions) -> Claim:
    with sessions.begin() as session:
        add_audit(session, api.workspace_id)
        found = claim(session, lane="gpu", owner="w")
        assert found is not None
        add_lists(session, audit_id=found.subject_id, attempt=found.attempt, probes=1)
    return found


class Pages:
    """What the stream of a page has sent so far, read in a thread."""

    def __init__(self, http: httpx.Client, audit_id: str, after: str | None = None) -> None:
        self.sent: list[tuple[str, str]] = []
        """(event, id)"""
        self.texts: list[str] = []
        self.comments = 0
        headers = {} if after is None else {"Last-Event-ID": after}
        self._request = http.build_request("GET", f"/audits/{audit_id}/live", headers=headers)
        self._http = http
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        response = self._http.send(self._request, stream=True)
        assert response.status_code == 200
        for block in blocks(response.iter_lines()):
            self.comments += "comment" in block
            if block.get("event") == "page":
                self.texts.append(Page(json.loads(block["data"])).text)
            if "event" in block:
                self.sent.append((block["event"], block.get("id", "")))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.sent]

    def wait(self) -> None:
        self._thread.join(SOON)
        assert not self._thread.is_alive()


def test_the_page_at_once_and_whenever_it_changes(
    api: LiveApi, http: httpx.Client, held: Claim, sessions: Sessions
) -> None:
    stream = Pages(http, held.subject_id)
    wait_for(lambda: len(stream.texts) == 1)
    progress(sessions, held, 3)  # no event of the audit tells of the next one
    progress(sessions, held, 41)
    wait_for(lambda: "41 of 100" in stream.texts[-1])
    wait_for(lambda: stream.comments > 1)
    before = len(stream.texts)
    notice(sessions, held, "Line one.\nLine two: \u2028 \U0001f40d")
    wait_for(lambda: "Line two: \U0001f40d" in stream.texts[-1])  # the parser takes U+2028 for a space
    assert len(stream.texts) == before + 1, "nothing is sent twice"
    end(sessions, held)
    stream.wait()
    assert stream.events[-2:] == ["page", "end"]
    assert "succeeded" in stream.texts[-1]
    wait_for(lambda: waiting(api) == 0)


def test_who_comes_back_gets_what_is_new_to_them(http: httpx.Client, held: Claim, sessions: Sessions) -> None:
    first = Pages(http, held.subject_id)
    wait_for(lambda: bool(first.sent))
    known = first.sent[0][1]
    nothing_new = Pages(http, held.subject_id, after=known)
    wait_for(lambda: nothing_new.comments >= 2)
    assert nothing_new.sent == []
    progress(sessions, held, 7)
    wait_for(lambda: nothing_new.events == ["page"])
    late = Pages(http, held.subject_id, after=known)
    wait_for(lambda: late.events == ["page"])
    assert late.sent == nothing_new.sent
    end(sessions, held)
    for stream in (first, nothing_new, late):
        stream.wait()
    again = Pages(http, held.subject_id, after=late.sent[-2][1])
    again.wait()
    assert again.events == ["end"]


def test_a_key_that_ends_is_told_on_the_stream(
    api: LiveApi, held: Claim, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "AUTHENTICATED_SECONDS", 0.2)
    with sessions.begin() as session:
        _, secret = create_key(session, workspace_id=api.workspace_id, name="short", scopes=[])
    with client_of(api, secret) as http:
        stream = Pages(http, held.subject_id)
        wait_for(lambda: stream.comments >= 3)
        with sessions.begin() as session:
            session.execute(text("UPDATE api_keys SET revoked_at = now() WHERE name = 'short'"))
        stream.wait()
        assert stream.events == ["page", "signed-out"]


def test_only_the_workspace_follows_its_audit(
    api: LiveApi, held: Claim, sessions: Sessions, other_workspace_id: str
) -> None:
    with sessions.begin() as session:
        _, secret = create_key(session, workspace_id=other_workspace_id, name="stranger", scopes=["admin"])
    with client_of(api, secret) as stranger:
        assert stranger.get(f"/audits/{held.subject_id}/live").status_code == 404
    assert httpx.get(f"{api.url}/audits/{held.subject_id}/live", trust_env=False).status_code == 401
    assert waiting(api) == 0


def test_a_server_that_is_full_says_so(settings: Settings, sessions: Sessions) -> None:
    """The page polls then."""
    with live_api(settings.model_copy(update={"max_waiting_requests": 1})) as api, client_of(api) as http:
        with sessions.begin() as session:
            audit = add_audit(session, api.workspace_id)
        first = Pages(http, audit.id)
        wait_for(lambda: bool(first.sent))
        refused = http.get(f"/audits/{audit.id}/live")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        with sessions.begin() as session:
            request_cancel(session, workspace_id=api.workspace_id, audit_id=audit.id)
        first.wait()
