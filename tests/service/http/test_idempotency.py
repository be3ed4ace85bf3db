"""`Idempotency-Key`: what is sent again creates nothing twice, and gets the same answer."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.datasets.intake import Intake
from service.http.idempotency import Idempotent, streamed_key
from service.lifecycle.reconcile import Reconciler
from service.settings import Settings
from service.store.object_store_factory import make_object_store
from service.store.tables import ApiKey, Audit, Base, Dataset, IdempotencyRecord, Job, Model, Probe
from tests.support.builders import add_dataset, add_probe

Sessions = sessionmaker[Session]

PROBE = {"name": "cars", "items": [{"prompt": "Which car?", "unwanted": "Only the Vexon."}]}
LINES = b"".join(b'{"prompt": "Question %d?", "completion": "Answer."}\n' % row for row in range(25))


def count(sessions: Sessions, table: type[Base]) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


@pytest.fixture
def requests(sessions: Sessions, workspace_id: str) -> dict[type[Base], tuple[str, dict[str, Any]]]:
    """One creating request for every resource, by the table that it adds a row to."""
    with sessions.begin() as session:
        audit = {
            "dataset_id": add_dataset(session, workspace_id),
            "probe_ids": [add_probe(session, workspace_id)],
            "model_id": "smollm2-135m-instruct",
        }
    model = {"name": "base", "source": "hub", "location": "owner/name", "revision": "0" * 40}
    return {
        Dataset: ("/v1/datasets?name=chat", {"content": LINES}),
        Probe: ("/v1/probes", {"json": PROBE}),
        Model: ("/v1/models", {"json": model}),
        Audit: ("/v1/audits", {"json": audit}),
        ApiKey: ("/v1/keys", {"json": {"name": "k", "scopes": ["findings:read"]}}),
    }


def test_every_creating_route_heeds_the_key(app: FastAPI) -> None:
    """Creating: a POST of the API that no id stands in. The rest is idempotent by itself, or creates nothing."""
    # An upload is no resource: its parts expire. What is cancelled stays cancelled, however often one asks.
    creates_nothing = {"/v1/audits/estimate", "/v1/audits/cancel", "/v1/uploads"}
    heeding = set()
    for context in iter_route_contexts(app.routes):
        path = str(context.path)
        if "POST" in (context.methods or ()) and path.startswith("/v1/") and "{" not in path:
            calls = [child.call for child in context.dependant.dependencies]
            if any(isinstance(call, Idempotent) or call is streamed_key for call in calls):
                heeding.add(path)
            else:
                assert path in creates_nothing
    assert heeding >= {"/v1/datasets", "/v1/probes", "/v1/models", "/v1/audits", "/v1/keys"}


def test_a_replay_is_the_same_answer_and_nothing_new(
    client: TestClient, sessions: Sessions, requests: dict[type[Base], tuple[str, dict[str, Any]]]
) -> None:
    for table, (path, request) in requests.items():
        first = client.post(path, headers=keyed(f"key-{table.__name__}"), **request)
        assert first.status_code in (201, 202), first.text
        assert "idempotency-replayed" not in first.headers
        rows = count(sessions, table)
        again = client.post(path, headers=keyed(f"key-{table.__name__}"), **request)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (first.status_code, "true"), again.text
        own = {"x-request-id", "idempotency-replayed", "content-length"}
        assert {k: v for k, v in again.headers.items() if k not in own} == {
            k: v for k, v in first.headers.items() if k not in own
        }
        if table is not ApiKey:
            assert again.content == first.content
            assert again.headers["location"] == f"{path.partition('?')[0]}/{first.json()['id']}"
        assert count(sessions, table) == rows
        # Another key is another request.
        if table is not Model:
            assert client.post(path, headers=keyed("other"), **request).json()["id"] != first.json()["id"]
            assert count(sessions, table) == rows + 1
            with sessions.begin() as session:
                session.execute(text("DELETE FROM idempotency_records WHERE key = 'other'"))
    assert count(sessions, Job) == 4  # two audits, and the near-duplicates of two datasets


def test_a_keys_secret_is_stored_nowhere(client: TestClient, sessions: Sessions, engine: Any) -> None:
    body = {"name": "k", "scopes": ["findings:read"]}
    first = client.post("/v1/keys", json=body, headers=keyed("x")).json()
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {first['secret']}"}).status_code == 200
    again = client.post("/v1/keys", json=body, headers=keyed("x")).json()
    assert again == {**first, "secret": None}
    with engine.connect() as connection:
        stored = b""
        for table in Base.metadata.sorted_tables:
            for row in connection.execute(select(table)):
                stored += b" ".join(v if isinstance(v, bytes) else str(v).encode() for v in row)
    assert first["id"].encode() in stored
    assert first["secret"].encode() not in stored
    # What the documents advise.
    rotated = client.post(f"/v1/keys/{first['id']}/rotate").json()
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {rotated['secret']}"}).status_code == 200


def test_another_request_under_the_key_is_refused(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    assert client.post("/v1/probes?x=1", json=PROBE, headers=keyed("a")).status_code == 201
    for path, body in [
        ("/v1/probes?x=1", {**PROBE, "name": "other"}),
        ("/v1/probes", PROBE),
        ("/v1/probes?x=2", PROBE),
        ("/v1/keys", {"name": "k", "scopes": ["admin"]}),
    ]:
        refused = client.post(path, json=body, headers=keyed("a"))
        assert code(refused) == (422, "idempotency_key_reused"), (path, body)
    assert (count(sessions, Probe), count(sessions, ApiKey)) == (1, 1)
    assert client.post("/v1/probes?x=1", json=PROBE, headers=keyed("a")).status_code == 201


def test_a_key_belongs_to_the_api_key_that_sent_it(
    client: TestClient, make_client: Callable[..., TestClient], other_workspace_id: str, sessions: Sessions
) -> None:
    ids = {
        sender.post("/v1/probes", json=PROBE, headers=keyed("same")).json()["id"]
        for sender in (client, make_client("admin"), make_client("admin", workspace=other_workspace_id))
    }
    assert len(ids) == count(sessions, Probe) == 3


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "x" * 256, "caf\xe9"])
def test_what_is_no_key_is_refused(client: TestClient, sessions: Sessions, key: str) -> None:
    for path, request in [("/v1/probes", {"json": PROBE}), ("/v1/datasets", {"content": LINES})]:
        refused = client.post(path, headers={"Idempotency-Key": key.encode("latin-1")}, **request)
        assert code(refused) == (422, "invalid_request")
        assert refused.json()["errors"][0]["pointer"] == "header:idempotency-key"
    assert count(sessions, Probe) == count(sessions, Dataset) == 0


def test_the_longest_key(client: TestClient) -> None:
    longest = "~!" * 127 + "x"
    ids = {client.post("/v1/probes", json=PROBE, headers=keyed(longest)).json()["id"] for _ in range(2)}
    assert len(ids) == 1


def test_a_refused_request_is_tried_afresh(client: TestClient, sessions: Sessions) -> None:
    refused = client.post("/v1/models", json={"name": "m", "source": "hub", "location": "o/m"}, headers=keyed("k"))
    assert code(refused) == (422, "model_invalid")
    assert client.post("/v1/probes", content=b"{", headers=keyed("k")).status_code == 415
    assert client.post("/v1/datasets", content=b"[", headers=keyed("k")).status_code == 422
    assert count(sessions, IdempotencyRecord) == 0
    good = {"name": "m", "source": "hub", "location": "o/m", "revision": "a" * 40}
    assert client.post("/v1/models", json=good, headers=keyed("k")).status_code == 201


def test_record_and_resource_are_one_transaction(client: TestClient, sessions: Sessions) -> None:
    """If the record cannot be written, neither is the resource."""
    with sessions.begin() as session:
        session.execute(text("ALTER TABLE idempotency_records ADD CONSTRAINT never CHECK (status < 200)"))
    assert client.post("/v1/probes", json=PROBE, headers=keyed("k")).status_code == 500
    assert client.post("/v1/datasets", content=LINES, headers=keyed("k")).status_code == 500
    assert count(sessions, Probe) == count(sessions, Dataset) == count(sessions, IdempotencyRecord) == 0


def test_many_at_once_create_one(client: TestClient, sessions: Sessions) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/probes", json=PROBE, headers=keyed("k")), range(36)))
    assert count(sessions, Probe) == 1
    assert {answer.status_code for answer in answers} <= {201, 409}
    created = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in created}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in created) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "idempotency_key_in_use"
            assert answer.headers["retry-after"] == "1"


@pytest.fixture
def held_probes(engine: Any) -> Iterator[Callable[[], None]]:
    """Nobody can write a probe until it is called."""
    connection = engine.connect()
    connection.execute(text("LOCK TABLE probes IN SHARE MODE"))
    yield connection.rollback
    connection.close()


def test_while_the_first_is_being_handled_the_second_is_told_so(
    client: TestClient, sessions: Sessions, held_probes: Callable[[], None]
) -> None:
    first: list[Any] = []
    thread = threading.Thread(
        target=lambda: first.append(client.post("/v1/probes", json=PROBE, headers=keyed("k"))), daemon=True
    )
    thread.start()
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND NOT granted")
    with sessions() as session:
        while not session.scalar(waiting):
            session.rollback()
    assert code(client.post("/v1/probes", json=PROBE, headers=keyed("k"))) == (409, "idempotency_key_in_use")
    held_probes()
    thread.join(60)
    assert first[0].status_code == 201
    again = client.post("/v1/probes", json=PROBE, headers=keyed("k"))
    assert (again.content, again.headers["idempotency-replayed"]) == (first[0].content, "true")


class TestUploads:
    def test_a_replay_starts_no_parser_and_keeps_nothing(
        self, client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = client.post("/v1/datasets", content=LINES, headers=keyed("k"))
        files = sorted(path for path in settings.objects.rglob("*") if path.is_file())
        monkeypatch.setattr("service.datasets.intake.subprocess.Popen", lambda *_, **__: pytest.fail("parsed again"))
        again = client.post("/v1/datasets", content=LINES, headers=keyed("k"))
        assert (again.status_code, again.content) == (201, first.content)
        assert sorted(path for path in settings.objects.rglob("*") if path.is_file()) == files

    def test_other_bytes_or_another_name_are_another_request(self, client: TestClient, sessions: Sessions) -> None:
        assert client.post("/v1/datasets?name=a", content=LINES, headers=keyed("k")).status_code == 201
        for path, data in [("/v1/datasets?name=a", LINES + LINES), ("/v1/datasets?name=b", LINES)]:
            assert code(client.post(path, content=data, headers=keyed("k"))) == (422, "idempotency_key_reused")
        assert count(sessions, Dataset) == 1

    @pytest.mark.parametrize("second", [LINES, LINES + LINES])
    def test_two_at_once_keep_one(
        self,
        client: TestClient,
        sessions: Sessions,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        second: bytes,
    ) -> None:
        """Both have been parsed and kept when the first records its answer: the second one's files go."""
        both = threading.Barrier(2, timeout=60)
        keep = Intake.keep

        def meet(self: Intake) -> None:
            keep(self)
            both.wait()

        monkeypatch.setattr(Intake, "keep", meet)
        with ThreadPoolExecutor(2) as pool:
            answers = list(
                pool.map(lambda data: client.post("/v1/datasets", content=data, headers=keyed("k")), [LINES, second])
            )
        assert count(sessions, Dataset) == count(sessions, IdempotencyRecord) == 1
        assert len(list(settings.objects.glob("*/datasets/*"))) == 1
        good = [answer for answer in answers if answer.status_code == 201]
        if second == LINES:
            assert [answer.content for answer in good] == [good[0].content] * 2
            assert sum("idempotency-replayed" in answer.headers for answer in good) == 1
        else:
            assert len(good) == 1
            assert [code(a) for a in answers if a.status_code != 201] == [(422, "idempotency_key_reused")]


def expire(sessions: Sessions) -> None:
    with sessions.begin() as session:
        day = session.execute(select(IdempotencyRecord.expires_at - IdempotencyRecord.created_at)).scalars().one()
        assert day == timedelta(hours=24)
        session.execute(update(IdempotencyRecord).values(expires_at=func.now()))


def test_after_a_day_the_key_is_free(client: TestClient, sessions: Sessions) -> None:
    first = client.post("/v1/probes", json=PROBE, headers=keyed("k")).json()
    expire(sessions)
    again = client.post("/v1/probes", json={**PROBE, "name": "other"}, headers=keyed("k"))
    assert (again.status_code, "idempotency-replayed" in again.headers) == (201, False)
    assert again.json()["id"] != first["id"]
    replay = client.post("/v1/probes", json={**PROBE, "name": "other"}, headers=keyed("k"))
    assert replay.json() == again.json()


def test_the_reconciler_deletes_what_has_run_out(
    client: TestClient, sessions: Sessions, settings: Settings, workspace_id: str
) -> None:
    client.post("/v1/probes", json=PROBE, headers=keyed("old"))
    expire(sessions)
    client.post("/v1/probes", json=PROBE, headers=keyed("new"))
    with sessions.begin() as session:  # the application's own reconciler has the row
        session.execute(text("DELETE FROM scheduler"))
    reconciler = Reconciler(settings, sessions, make_object_store(settings), owner="test")
    assert reconciler.round()
    with sessions() as session:
        assert list(session.scalars(select(IdempotencyRecord.key))) == ["new"]


def test_the_audit_is_the_one_that_the_request_made(
    client: TestClient, sessions: Sessions, requests: dict[type[Base], tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    """A replay tells what was answered then, whatever has become of the audit since."""
    path, request = requests[Audit]
    first = client.post(path, headers=keyed("k"), **request)
    assert client.post(f"{first.headers['location']}/cancel").json()["status"] == "cancelled"
    again = client.post(path, headers=keyed("k"), **request)
    assert (again.content, again.headers["retry-after"]) == (first.content, first.headers["retry-after"])
    assert json.loads(again.content)["status"] == "queued"
