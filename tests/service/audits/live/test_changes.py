"""Long-polls on a real server: told in time, and holding nothing meanwhile."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from service.audits.live import changes as changes_module
from service.audits.live.versions import read_versions
from service.keys.secrets import create_key
from service.lifecycle.jobs import Claim, claim, renew
from service.settings import Settings
from tests.support.builders import add_audit
from tests.support.live_api import LiveApi, live_api
from tests.support.live_audits import Sessions, client_of, end, notice, poll, progress, tag_of, waiting
from tests.support.waiting import SOON, wait_for


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
        wait_for(lambda: waiting(api) == 0)

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

    def test_one_workspace_leaves_half_of_the_places_to_others(
        self, settings: Settings, sessions: Sessions, other_workspace_id: str
    ) -> None:
        events = {"Accept": "text/event-stream"}
        with live_api(settings.model_copy(update={"max_waiting_requests": 2})) as api, client_of(api) as http:
            with sessions.begin() as session:
                audit_id = add_audit(session, api.workspace_id).id
                theirs = add_audit(session, other_workspace_id).id
                _, key = create_key(session, workspace_id=other_workspace_id, name="test", scopes=["admin"])
            path = f"/v1/audits/{audit_id}/events"
            with http.stream("GET", path, headers=events) as stream:
                assert stream.status_code == 200
                refused = http.get(path, headers=events, timeout=SOON)
                assert (refused.status_code, refused.json()["code"]) == (503, "waiting_share_taken")
                other = events | {"Authorization": f"Bearer {key}"}
                with http.stream("GET", f"/v1/audits/{theirs}/events", headers=other) as another:
                    assert another.status_code == 200
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

        def slow(session: Session, audit_ids: set[str], settings: Settings) -> Any:
            found = read_versions(session, audit_ids, settings)
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
