"""/v1/exports from asking to the last byte, with a real worker behind it."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.contract.failure import ErrorCode, Failure
from service.lifecycle.claims import Claim
from service.lifecycle.exports import record_export_progress
from service.lifecycle.jobs import claim, fail
from service.lifecycle.workers import beat
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.tables import Audit
from tests.support.builders import add_audit
from tests.support.exportable import jsonl, publish_audit, store_dataset
from worker.supervisor.dispatch import Supervisor

UPLOAD = jsonl(40)
CLEANED = b"".join(line for row, line in enumerate(UPLOAD.splitlines(keepends=True)) if row not in (3, 8))


@pytest.fixture
def objects(settings: Settings) -> LocalObjects:
    return LocalObjects(settings.objects)


@pytest.fixture
def audit(sessions: sessionmaker[Session], objects: LocalObjects, workspace_id: str) -> Audit:
    """Rows 3 and 8 of 40 are flagged."""
    with sessions.begin() as session:
        return publish_audit(session, store_dataset(session, objects, workspace_id, UPLOAD), (3, 8))


@pytest.fixture
def work(settings: Settings, sessions: sessionmaker[Session], objects: LocalObjects) -> Callable[[], int]:
    """Runs what the io lane has to do."""
    return lambda: Supervisor(settings, sessions, objects, owner="w", stopping=threading.Event()).run_due("io")


@pytest.fixture
def take(sessions: sessionmaker[Session]) -> Callable[[], Claim]:
    def run() -> Claim:
        with sessions.begin() as session:
            held = claim(session, lane="io", owner="w")
        assert held is not None
        return held

    return run


def ask(client: TestClient, audit: Audit, **body: Any) -> dict[str, Any]:
    response = client.post(f"/v1/audits/{audit.id}/exports", json={"kind": "cleaned", **body})
    assert response.status_code == 202, response.text
    return dict(response.json())


def test_from_asking_to_the_file(client: TestClient, audit: Audit, work: Callable[[], int]) -> None:
    response = client.post(f"/v1/audits/{audit.id}/exports", json={"kind": "cleaned"})
    asked = response.json()
    address = f"/v1/exports/{asked['id']}"
    assert (response.status_code, response.headers["location"]) == (202, address)
    assert asked["id"].startswith("exp_")
    assert {name: asked[name] for name in ("object", "audit_id", "kind", "format", "filter", "max_q", "status")} == {
        "object": "export",
        "audit_id": audit.id,
        "kind": "cleaned",
        "format": "jsonl",
        "filter": "flagged",
        "max_q": None,
        "status": "queued",
    }
    assert [asked[name] for name in ("progress", "rows", "bytes", "sha256", "error", "started_at")] == [None] * 6
    refused = client.get(f"{address}/content")
    assert (refused.status_code, refused.json()["code"]) == (409, "export_not_finished")
    assert refused.headers["retry-after"]
    assert client.get(address).headers["retry-after"]

    assert work() == 1
    done = client.get(address)
    assert "retry-after" not in done.headers
    found = done.json()
    digest = hashlib.sha256(CLEANED).hexdigest()
    assert [found[name] for name in ("status", "rows", "bytes", "sha256", "attempt")] == [
        "succeeded",
        38,
        len(CLEANED),
        digest,
        1,
    ]
    assert found["finished_at"] > found["started_at"] > found["created_at"]
    content = client.get(f"{address}/content")
    assert content.content == CLEANED
    assert content.headers["content-type"] == "application/jsonl"
    assert content.headers["content-length"] == str(len(CLEANED))
    name = f"{audit.id}-cleaned.jsonl"
    assert content.headers["content-disposition"] == f"attachment; filename=\"{name}\"; filename*=UTF-8''{name}"
    assert content.headers["etag"] == f'"{digest}"'
    assert content.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("format", "media_type"),
    [("csv", "text/csv; charset=utf-8; header=present"), ("parquet", "application/vnd.apache.parquet")],
)
@pytest.mark.parametrize("kind", ["flagged", "scores"])
def test_other_kinds_and_formats(
    client: TestClient, audit: Audit, work: Callable[[], int], kind: str, format: str, media_type: str
) -> None:
    export = ask(client, audit, kind=kind, format=format)
    work()
    content = client.get(f"/v1/exports/{export['id']}/content")
    assert content.status_code == 200
    assert content.headers["content-type"] == media_type
    assert content.headers["content-disposition"].endswith(f"-{kind}.{format}")
    assert client.get(f"/v1/exports/{export['id']}").json()["rows"] == (2 if kind == "flagged" else 40)


class TestRange:
    @pytest.fixture
    def address(self, client: TestClient, audit: Audit, work: Callable[[], int]) -> str:
        export = ask(client, audit)
        work()
        return f"/v1/exports/{export['id']}/content"

    def test_parts_make_the_whole(self, client: TestClient, address: str) -> None:
        first = client.get(address, headers={"Range": "bytes=0-99"})
        assert (first.status_code, first.headers["content-range"]) == (206, f"bytes 0-99/{len(CLEANED)}")
        assert first.headers["accept-ranges"] == "bytes"
        rest = client.get(address, headers={"Range": "bytes=100-", "If-Range": first.headers["etag"]})
        assert (rest.status_code, first.content + rest.content) == (206, CLEANED)
        assert client.get(address, headers={"Range": "bytes=-7"}).content == CLEANED[-7:]

    def test_of_another_file_the_whole_is_sent(self, client: TestClient, address: str) -> None:
        answer = client.get(address, headers={"Range": "bytes=5-", "If-Range": '"other"'})
        assert (answer.status_code, answer.content) == (200, CLEANED)

    def test_behind_the_end(self, client: TestClient, address: str) -> None:
        answer = client.get(address, headers={"Range": f"bytes={len(CLEANED)}-"})
        assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{len(CLEANED)}"


def verdict(client: TestClient, audit: Audit, row: int, said: str) -> None:
    response = client.put(f"/v1/audits/{audit.id}/findings/{row}/verdict", json={"verdict": said})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(("filter", "left_out"), [("flagged", {3, 8}), ("confirmed", {20}), ("not_rejected", {8, 20})])
def test_what_people_have_said_decides_where_it_is_asked_for(
    client: TestClient, audit: Audit, work: Callable[[], int], filter: str, left_out: set[int]
) -> None:
    """Rows 3 and 8 are flagged; row 3 was confirmed once and is rejected, row 20 is confirmed."""
    verdict(client, audit, 3, "confirmed")
    verdict(client, audit, 3, "rejected")
    verdict(client, audit, 20, "confirmed")
    export = ask(client, audit, filter=filter)
    # Too late: the export goes by what was said when it was asked for.
    verdict(client, audit, 8, "rejected")
    verdict(client, audit, 30, "confirmed")
    work()
    kept = client.get(f"/v1/exports/{export['id']}/content").content.splitlines()
    assert kept == [line for row, line in enumerate(UPLOAD.splitlines()) if row not in left_out]


def test_confirmed_goes_by_verdicts_alone(client: TestClient, audit: Audit) -> None:
    body = {"kind": "cleaned", "filter": "confirmed", "max_q": 0.1}
    response = client.post(f"/v1/audits/{audit.id}/exports", json=body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


def test_the_same_request_again_makes_one_export(client: TestClient, audit: Audit) -> None:
    address, headers = f"/v1/audits/{audit.id}/exports", {"Idempotency-Key": "one"}
    first, again = (client.post(address, json={"kind": "scores"}, headers=headers) for _ in range(2))
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert len(client.get("/v1/exports").json()["data"]) == 1


def test_who_knows_the_tag_gets_304(client: TestClient, audit: Audit, work: Callable[[], int]) -> None:
    address = f"/v1/exports/{ask(client, audit)['id']}"
    tag = client.get(address).headers["etag"]
    assert client.get(address, headers={"If-None-Match": tag}).status_code == 304
    work()
    assert client.get(address, headers={"If-None-Match": tag}).status_code == 200


def test_progress_with_an_eta(
    client: TestClient, audit: Audit, sessions: sessionmaker[Session], take: Callable[[], Claim]
) -> None:
    export = ask(client, audit)
    held = take()
    with sessions.begin() as session:
        assert record_export_progress(session, held, done=10, total=40, unit="samples", eta_seconds=30.0)
    found = client.get(f"/v1/exports/{export['id']}").json()
    assert found["status"] == "running"
    assert {name: found["progress"][name] for name in ("done", "total", "unit")} == {
        "done": 10,
        "total": 40,
        "unit": "samples",
    }
    assert 20 < found["progress"]["eta_seconds"] <= 30
    assert found["progress"]["eta"] > found["started_at"]


def test_a_failed_one_says_why(
    client: TestClient, audit: Audit, sessions: sessionmaker[Session], take: Callable[[], Claim]
) -> None:
    export = ask(client, audit)
    failure = Failure(code=ErrorCode.DISK_FULL, message="The worker's disk is full.", hint="Free some.")
    with sessions.begin() as session:
        assert fail(session, take(), failure)
    found = client.get(f"/v1/exports/{export['id']}").json()
    assert (found["status"], found["error"]) == ("failed", failure.model_dump(mode="json"))
    refused = client.get(f"/v1/exports/{export['id']}/content")
    assert (refused.status_code, refused.json()["code"]) == (409, "export_not_finished")
    assert "failed" in refused.json()["detail"]


def test_lists_are_newest_first_and_of_an_audit(client: TestClient, audit: Audit, sessions: Any, objects: Any) -> None:
    with sessions.begin() as session:
        other = publish_audit(session, store_dataset(session, objects, audit.workspace_id, UPLOAD), ())
    ids = [ask(client, audit)["id"], ask(client, other)["id"], ask(client, audit)["id"]]
    first = client.get("/v1/exports", params={"limit": 2}).json()
    rest = client.get("/v1/exports", params={"limit": 2, "after": first["next_after"]}).json()
    assert [item["id"] for item in first["data"] + rest["data"]] == ids[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    of_one = client.get("/v1/exports", params={"audit_id": audit.id}).json()["data"]
    assert [item["id"] for item in of_one] == [ids[2], ids[0]]
    assert client.get("/v1/exports", params={"audit_id": "aud_none"}).json()["data"] == []


class TestCancelAndDelete:
    def test_cancel_is_idempotent_and_ends_a_queued_one(
        self, client: TestClient, audit: Audit, work: Callable[[], int]
    ) -> None:
        export = ask(client, audit)
        for _ in range(2):
            answer = client.post(f"/v1/exports/{export['id']}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        assert work() == 0
        refused = client.get(f"/v1/exports/{export['id']}/content")
        assert (refused.status_code, refused.json()["code"]) == (409, "export_not_finished")

    def test_what_runs_is_cancelled_before_it_is_deleted(
        self, client: TestClient, audit: Audit, take: Callable[[], Claim]
    ) -> None:
        export = ask(client, audit)
        take()
        address = f"/v1/exports/{export['id']}"
        refused = client.delete(address)
        assert (refused.status_code, refused.json()["code"]) == (409, "export_not_ended")
        assert client.post(f"{address}/cancel").json()["status"] == "cancelling"

    def test_a_deleted_one_is_gone_with_its_file(
        self, client: TestClient, audit: Audit, work: Callable[[], int], settings: Settings
    ) -> None:
        export = ask(client, audit)
        work()
        folder: Path = settings.objects / audit.workspace_id / "exports" / export["id"]
        assert folder.is_dir()
        assert client.delete(f"/v1/exports/{export['id']}").status_code == 204
        assert not folder.exists()
        assert client.get(f"/v1/exports/{export['id']}").json()["code"] == "export_not_found"
        assert client.delete(f"/v1/exports/{export['id']}").status_code == 404


class TestRefused:
    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"kind": "all"},
            {"kind": "cleaned", "format": "xlsx"},
            {"kind": "cleaned", "max_q": 0},
            {"kind": "cleaned", "max_q": 1},
            {"kind": "cleaned", "max_q": "NaN"},
            {"kind": "cleaned", "filter": "everything"},
            {"kind": "scores", "max_q": 0.1},
            {"kind": "scores", "filter": "flagged"},
            {"kind": "cleaned", "colour": "red"},
        ],
    )
    def test_what_makes_no_sense(self, client: TestClient, audit: Audit, body: dict[str, Any]) -> None:
        answer = client.post(f"/v1/audits/{audit.id}/exports", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")

    def test_an_audit_without_results(
        self, client: TestClient, sessions: sessionmaker[Session], workspace_id: str
    ) -> None:
        with sessions.begin() as session:
            audit = add_audit(session, workspace_id)
        answer = client.post(f"/v1/audits/{audit.id}/exports", json={"kind": "cleaned"})
        assert (answer.status_code, answer.json()["code"]) == (409, "audit_not_finished")

    def test_a_key_that_may_not_read_findings(
        self, make_client: Callable[..., TestClient], client: TestClient, audit: Audit, work: Callable[[], int]
    ) -> None:
        export = ask(client, audit)
        work()
        stranger = make_client("audits:write", "datasets:write")
        address = f"/v1/exports/{export['id']}"
        answers = [
            stranger.post(f"/v1/audits/{audit.id}/exports", json={"kind": "cleaned"}),
            stranger.get("/v1/exports"),
            stranger.get(address),
            stranger.get(f"{address}/content"),
            stranger.post(f"{address}/cancel"),
            stranger.delete(address),
        ]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(403, "scope_missing")] * 6
        reader = make_client("findings:read")
        assert reader.get(f"{address}/content").content == CLEANED
        assert ask(reader, audit)["status"] == "queued"

    def test_a_file_that_is_gone_is_our_fault(
        self, client: TestClient, audit: Audit, work: Callable[[], int], objects: LocalObjects
    ) -> None:
        export = ask(client, audit)
        work()
        objects.delete_tree(f"{audit.workspace_id}/exports/{export['id']}")
        answer = client.get(f"/v1/exports/{export['id']}/content")
        assert (answer.status_code, answer.json()["code"]) == (500, "object_missing")


def test_asking_wakes_an_idle_worker_of_the_lane(
    client: TestClient, audit: Audit, sessions: sessionmaker[Session], settings: Settings
) -> None:
    with sessions.begin() as session:
        beat(session, owner="idle", lane="io", host="h", pid=1)
    ask(client, audit)
    assert settings.broker_url is not None
    with redis.Redis.from_url(settings.broker_url.get_secret_value().replace("redis+socket", "unix")) as broker:
        assert (broker.llen("io"), broker.llen("gpu")) == (1, 0)
