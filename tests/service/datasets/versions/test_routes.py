"""Versions of datasets over the API, with a real worker that compares them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit, publish
from service.lifecycle.jobs import claim
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.score_lists import add_lists
from service.store.tables import Dataset, Job
from tests.support.builders import add_model, add_probe, summary_of
from tests.support.dataset_records import chat, jsonl
from worker.supervisor.dispatch import Supervisor

Sessions = sessionmaker[Session]
FIRST = [chat(f"Question {n}?", f"Answer {n}.") for n in range(6)]
SECOND = [chat("New?", "Yes."), *FIRST[:3], chat("Question 3?", "Another answer."), FIRST[5]]


@pytest.fixture
def upload(client: TestClient) -> Callable[..., Any]:
    def post(records: list[dict[str, Any]], **query: str) -> Any:
        return client.post("/v1/datasets", content=jsonl(records), params=query)

    return post


@pytest.fixture
def work(settings: Settings, sessions: Sessions) -> Callable[[], int]:
    objects = LocalObjects(settings.objects)
    return lambda: Supervisor(settings, sessions, objects, owner="w", stopping=threading.Event()).run_due("io")


def made(answer: Any) -> str:
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def refused(answer: Any, status: int, code: str) -> Any:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return answer.json()


def test_a_version_says_what_has_changed(client: TestClient, upload: Any, work: Callable[[], int]) -> None:
    first = made(upload(FIRST, name="v1"))
    second = made(upload(SECOND, name="v2", replaces=first))
    assert client.get(f"/v1/datasets/{second}").json()["replaces_id"] == first
    waiting = client.get(f"/v1/datasets/{second}/changes")
    assert waiting.json() == {
        "object": "dataset.changes",
        "dataset_id": second,
        "replaces_id": first,
        "changes": None,
    }
    assert work() == 3
    found = client.get(f"/v1/datasets/{second}/changes", headers={"If-None-Match": waiting.headers["etag"]}).json()
    assert found["changes"] == {
        "replaces_id": first,
        "kept": 4,
        "moved": 3,
        "changed": 1,
        "added": 1,
        "removed": 1,
        "first_changed": [{"before": 3, "after": 4}],
        "first_added": [0],
        "first_removed": [4],
    }
    assert client.get(f"/v1/datasets/{first}/changes").json()["replaces_id"] is None


def test_the_chain_is_listed_from_any_version_with_what_audits_flagged(
    client: TestClient, upload: Any, work: Callable[[], int], sessions: Sessions, workspace_id: str
) -> None:
    ids = [made(upload(FIRST, name="v1"))]
    for number in (2, 3):
        ids.append(made(upload(FIRST[number:], name=f"v{number}", replaces=ids[-1])))
    made(upload(FIRST, name="another"))
    work()
    with sessions.begin() as session:
        for dataset_id, flagged in ((ids[0], 4), (ids[2], 1), (ids[2], 2)):
            audit = create_audit(
                session,
                workspace_id=workspace_id,
                dataset_id=dataset_id,
                probe_ids=[add_probe(session, workspace_id)],
                model_id=add_model(session, workspace_id),
                training=TrainingConfig(),
                seeds=1,
                q=0.05,
            )
            held = claim(session, lane="gpu", owner="w")
            assert held is not None
            add_lists(session, audit_id=audit.id, attempt=held.attempt, probes=1)
            assert publish(session, held, summary_of(rows=40, flagged=flagged))
    for dataset_id in ids:
        body = client.get(f"/v1/datasets/{dataset_id}/versions").json()
        assert body["dataset_id"] == dataset_id
        assert [(one["number"], one["dataset"]["id"], one["dataset"]["name"]) for one in body["data"]] == [
            (1, ids[0], "v1"),
            (2, ids[1], "v2"),
            (3, ids[2], "v3"),
        ]
        assert [one["changes"] and one["changes"]["removed"] for one in body["data"]] == [None, 2, 1]
        shares = [[audit["flagged_share"] for audit in one["audits"]] for one in body["data"]]
        assert shares == [[0.1], [], [0.025, 0.05]]


def test_a_dataset_is_replaced_once(client: TestClient, upload: Any, sessions: Sessions) -> None:
    first = made(upload(FIRST))
    second = made(upload(SECOND, replaces=first))
    third = made(upload(FIRST, replaces=second))
    for older in (first, second):
        problem = refused(upload(SECOND, replaces=older), 409, "dataset_replaced")
        assert third in problem["detail"]
        assert problem["errors"] == [{"pointer": "query:replaces", "detail": f"the newest version is {third}"}]
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 3


def test_of_two_uploads_at_once_one_replaces_it(upload: Any, sessions: Sessions, settings: Settings) -> None:
    first = made(upload(FIRST))
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: upload(SECOND, replaces=first), range(3)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    with sessions() as session:
        known = set(session.scalars(select(Dataset.id)))
    assert {path.name for path in settings.objects.glob("*/datasets/*")} == known


def test_what_is_replaced_is_of_the_same_workspace(
    upload: Any, make_client: Callable[..., TestClient], other_workspace_id: str, settings: Settings
) -> None:
    foreign = make_client("admin", workspace=other_workspace_id)
    theirs = made(foreign.post("/v1/datasets", content=jsonl(FIRST)))
    for id in (theirs, "ds_none"):
        problem = refused(upload(SECOND, replaces=id), 422, "dataset_not_found")
        assert problem["errors"][0]["pointer"] == "query:replaces"
    assert len(list(settings.objects.glob("*/datasets/*"))) == 1
    assert foreign.get(f"/v1/datasets/{theirs}/versions").json()["data"][0]["dataset"]["id"] == theirs


def test_a_version_that_is_deleted_leaves_no_gap(
    client: TestClient, upload: Any, work: Callable[[], int], sessions: Sessions
) -> None:
    first = made(upload(FIRST))
    second = made(upload(FIRST[1:], replaces=first))
    third = made(upload(FIRST[2:], replaces=second))
    work()
    assert client.get(f"/v1/datasets/{third}/changes").json()["changes"]["removed"] == 1
    tag = client.get(f"/v1/datasets/{third}").headers["etag"]
    assert client.delete(f"/v1/datasets/{second}").status_code == 204
    assert client.get(f"/v1/datasets/{third}", headers={"If-None-Match": tag}).json()["replaces_id"] == first
    assert client.get(f"/v1/datasets/{third}/changes").json()["changes"] is None
    assert work() == 1
    changes = client.get(f"/v1/datasets/{third}/changes").json()["changes"]
    assert (changes["replaces_id"], changes["removed"]) == (first, 2)
    assert client.delete(f"/v1/datasets/{first}").status_code == 204
    assert client.get(f"/v1/datasets/{third}/changes").json() == {
        "object": "dataset.changes",
        "dataset_id": third,
        "replaces_id": None,
        "changes": None,
    }
    fourth = made(upload(FIRST, replaces=third))
    assert client.delete(f"/v1/datasets/{fourth}").status_code == 204
    made(upload(FIRST, replaces=third))


def test_a_deletion_that_is_refused_leaves_the_versions_as_they_are(
    client: TestClient, upload: Any, work: Callable[[], int], sessions: Sessions, workspace_id: str
) -> None:
    many = [chat(f"Question {n}?", f"Answer {n}.") for n in range(30)]
    first = made(upload(many))
    second = made(upload(many[1:], replaces=first))
    third = made(upload(many[2:], replaces=second))
    work()
    with sessions.begin() as session:
        body = {
            "dataset_id": second,
            "probe_ids": [add_probe(session, workspace_id)],
            "model_id": add_model(session, workspace_id),
        }
    assert client.post("/v1/audits", json=body).status_code == 202
    before = client.get(f"/v1/datasets/{third}/versions").json()
    refused(client.delete(f"/v1/datasets/{second}"), 409, "dataset_in_use")
    assert client.post(f"/datasets/{second}/delete").status_code == 409
    assert client.get(f"/v1/datasets/{third}/versions").json() == before
    with sessions() as session:
        assert session.scalars(select(Job.id).where(Job.kind == "version", Job.state == "queued")).all() == []


def test_one_that_is_deleted_while_it_waits_is_no_failure(
    client: TestClient, upload: Any, work: Callable[[], int], sessions: Sessions
) -> None:
    first = made(upload(FIRST))
    second = made(upload(SECOND, replaces=first))
    assert client.delete(f"/v1/datasets/{second}").status_code == 204
    work()
    with sessions() as session:
        assert set(session.scalars(select(Job.state))) == {"succeeded"}


def test_without_the_rows_of_one_the_comparison_fails_and_both_stay(
    client: TestClient, upload: Any, work: Callable[[], int], sessions: Sessions, settings: Settings, workspace_id: str
) -> None:
    first = made(upload(FIRST))
    second = made(upload(SECOND, replaces=first))
    (settings.objects / dataset_key(workspace_id, first, "rows.parquet")).unlink()
    work()
    with sessions() as session:
        failed = session.scalars(select(Job).where(Job.kind == "version")).one()
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error["code"] == "input_missing"
    assert client.get(f"/v1/datasets/{second}/changes").json()["changes"] is None
