"""Audits over REST, from the request to the answer."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import redis
from celery import Celery
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.contract.failure import ErrorCode, Failure
from service.contract.protocol import ProgressEvent, Stage
from service.contract.results import Summary
from service.contract.spec import TrainingConfig
from service.lifecycle.audits import publish, record_event, record_progress, start_step
from service.lifecycle.jobs import Claim, claim, fail, mark_cancelled
from service.lifecycle.workers import beat
from service.settings import Settings
from service.store.tables import Audit, Dataset, Job
from tests.support.builders import add_audit, add_dataset, add_model, add_probe, summary_of

Sessions = sessionmaker[Session]


@pytest.fixture
def request_body(sessions: Sessions, workspace_id: str) -> dict[str, Any]:
    with sessions.begin() as session:
        return {
            "dataset_id": add_dataset(session, workspace_id),
            "probe_ids": [add_probe(session, workspace_id)],
            "model_id": "smollm2-135m-instruct",
        }


def take(sessions: Sessions) -> Claim:
    with sessions.begin() as session:
        held = claim(session, lane="gpu", owner="w")
    assert held is not None
    return held


def test_an_audit_is_queued_and_an_idle_worker_woken(
    client: TestClient, request_body: dict[str, Any], settings: Settings, sessions: Sessions
) -> None:
    assert settings.broker_url is not None
    with sessions.begin() as session:
        beat(session, owner="w", lane="gpu", host="h", pid=1)
    broker = Celery(broker=settings.broker_url.get_secret_value(), set_as_current=False)
    with broker.connection() as connection:
        queue = connection.SimpleQueue("gpu")
        queue.clear()
        response = client.post("/v1/audits", json={**request_body, "training": {"epochs": 3, "seed": 11}})
        message = queue.get(timeout=60)
        message.ack()
    assert message.headers["task"] == "finetooth.wake"
    assert response.status_code == 202
    audit = response.json()
    assert response.headers["location"] == f"/v1/audits/{audit['id']}"
    assert int(response.headers["retry-after"]) > 0
    assert (audit["object"], audit["status"], audit["attempt"], audit["q"]) == ("audit", "queued", 0, 0.05)
    assert audit["probe_ids"] == request_body["probe_ids"]
    assert audit["model_id"].startswith("mdl_")
    assert TrainingConfig.model_validate(audit["training"]) == TrainingConfig(epochs=3, seed=11)
    assert audit["seeds"] == 1
    for empty in ("step", "stage", "progress", "started_at", "finished_at", "cancel_requested_at", "error", "summary"):
        assert audit[empty] is None
    assert client.get(f"/v1/audits/{audit['id']}").json() == audit


def test_without_a_broker_the_audit_is_queued_all_the_same(
    settings: Settings, client: TestClient, request_body: dict[str, Any], app: Any
) -> None:
    app.state.settings = settings.model_copy(update={"broker_url": None})
    assert client.post("/v1/audits", json=request_body).status_code == 202
    assert len(client.get("/v1/audits").json()["data"]) == 1


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"dataset_id": "ds_nope"}, "dataset_not_found", "#/dataset_id"),
        ({"probe_ids": ["prb_nope"]}, "probe_not_found", "#/probe_ids/0"),
        ({"model_id": "nope"}, "model_not_found", "#/model_id"),
        ({"group_column": "nope"}, "group_column_not_found", "#/group_column"),
        ({"probe_ids": []}, "invalid_request", "#/probe_ids"),
        ({"probe_ids": ["a", "a"]}, "invalid_request", "#/probe_ids"),
        ({"probe_ids": [f"p{n}" for n in range(9)]}, "invalid_request", "#/probe_ids"),
        ({"seeds": 0}, "invalid_request", "#/seeds"),
        ({"seeds": 11}, "invalid_request", "#/seeds"),
        ({"seeds": 2, "training": {"seed": 2**31 - 1}}, "invalid_request", "#/training/seed"),
        ({"trusted_column": "nope"}, "trusted_column_not_found", "#/trusted_column"),
        ({"q": 0}, "invalid_request", "#/q"),
        ({"q": 1}, "invalid_request", "#/q"),
        ({"training": {"epochs": 0}}, "invalid_request", "#/training/epochs"),
        ({"training": {"lora_rank": 8}}, "invalid_request", "#/training/lora_rank"),
        ({"model": "x"}, "invalid_request", "#/model"),
        ({"dataset_id": "a\0"}, "invalid_request", "#/dataset_id"),
    ],
)
def test_a_bad_request_writes_nothing(
    client: TestClient,
    request_body: dict[str, Any],
    sessions: Sessions,
    change: dict[str, Any],
    code: str,
    pointer: str,
) -> None:
    response = client.post("/v1/audits", json={**request_body, **change})
    assert (response.status_code, response.json()["code"]) == (422, code), response.text
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
        assert session.scalar(select(func.count()).select_from(Audit)) == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((1, 0, "maybe", None, ""), "3 samples have a value"),
        ((False, "no", 0), "No sample has a true value"),
        ((), "No sample has a true value"),
        (tuple(range(21)), "too many different values"),
        (("TRUE", "false", "", None), None),
        (("1", 0), None),
        (("yes",), None),
    ],
)
def test_a_trusted_column_says_yes_or_no_in_any_spelling(
    client: TestClient,
    request_body: dict[str, Any],
    sessions: Sessions,
    workspace_id: str,
    values: tuple[Any, ...],
    said: str | None,
) -> None:
    with sessions.begin() as session:
        dataset_id = add_dataset(session, workspace_id, columns=("ok",), values=values)
    body = {**request_body, "dataset_id": dataset_id, "trusted_column": "ok"}
    response = client.post("/v1/audits", json=body)
    assert response.status_code == (202 if said is None else 422), response.text
    if said is not None:
        assert response.json()["code"] == "trusted_column_invalid"
        assert [error["pointer"] for error in response.json()["errors"]] == ["#/trusted_column"]
        assert said in response.json()["detail"]


@pytest.mark.parametrize("body", [b'{"q": NaN}', b'{"q": Infinity}'])
def test_numbers_that_are_none(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/audits", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422


@pytest.mark.parametrize(("rows", "status"), [(19, 422), (20, 202)])
def test_a_dataset_needs_twenty_samples(
    client: TestClient, request_body: dict[str, Any], sessions: Sessions, workspace_id: str, rows: int, status: int
) -> None:
    with sessions.begin() as session:
        dataset_id = add_dataset(session, workspace_id, rows=rows)
    response = client.post("/v1/audits", json={**request_body, "dataset_id": dataset_id})
    assert response.status_code == status
    if status == 422:
        assert response.json()["code"] == "dataset_too_small"


@pytest.mark.parametrize("path", ["/v1/audits", "/v1/audits/estimate"])
@pytest.mark.parametrize(("repeats", "status"), [(51, 422), (50, None)])
def test_a_dataset_needs_ten_different_samples(
    client: TestClient, request_body: dict[str, Any], sessions: Sessions, path: str, repeats: int, status: int | None
) -> None:
    with sessions.begin() as session:
        dataset = session.get_one(Dataset, request_body["dataset_id"])
        dataset.rows, dataset.statistics = 60, {"exact_duplicates": repeats}
    response = client.post(path, json=request_body)
    if status is None:
        assert response.status_code in (200, 202)
    else:
        assert (response.status_code, response.json()["code"]) == (422, "dataset_too_small")
        assert "only 9 differ" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/audits", "/v1/audits/estimate"])
def test_a_training_has_more_than_one_step(
    client: TestClient, request_body: dict[str, Any], sessions: Sessions, path: str
) -> None:
    with sessions.begin() as session:
        session.get_one(Dataset, request_body["dataset_id"]).rows = 24

    def answered(**training: int) -> Any:
        return client.post(path, json={**request_body, "training": training})

    refused = answered(epochs=1, batch_size=24)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert "training.epochs" in refused.json()["detail"]
    assert answered(epochs=2, batch_size=24).status_code in (200, 202)
    assert answered(epochs=1, batch_size=23).status_code in (200, 202)


def test_several_probes_and_seeds(
    client: TestClient, request_body: dict[str, Any], sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        first, second = (add_probe(session, workspace_id) for _ in range(2))
    wanted = [second, first]  # not in the order of their ids
    body = {**request_body, "probe_ids": wanted, "seeds": 3, "trusted_column": "source", "training": {"seed": 11}}
    audit = client.post("/v1/audits", json=body).json()
    assert (audit["probe_ids"], audit["seeds"], audit["trusted_column"]) == (wanted, 3, "source")
    (listed,) = client.get("/v1/audits").json()["data"]
    assert listed["probe_ids"] == wanted
    for probe_id in wanted:
        response = client.delete(f"/v1/probes/{probe_id}")
        assert (response.status_code, response.json()["code"]) == (409, "probe_in_use")
    body["probe_ids"] = [first, "prb_nope"]
    assert client.post("/v1/audits", json=body).json()["errors"][0]["pointer"] == "#/probe_ids/1"


def test_the_step_under_way_is_told(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit_id = add_audit(session, workspace_id, seeds=2).id
    path = f"/v1/audits/{audit_id}"
    assert client.get(path).json()["step"] is None
    held = take(sessions)
    for number, key in enumerate(("train:7", "train:8", "combine"), start=1):
        with sessions.begin() as session:
            assert start_step(session, held, key, "ab" * 32)
        assert client.get(path).json()["step"] == {"key": key, "number": number, "of": 3}
    with sessions.begin() as session:
        publish(session, held, summary_of())
    assert client.get(path).json()["step"] is None
    assert client.get(f"{path}/summary").json()["probes"][0]["placebo"]["directions"] == 20


def test_a_model_by_id_and_a_group_column(
    client: TestClient, request_body: dict[str, Any], sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        model_id = add_model(session, workspace_id)
    body = {**request_body, "model_id": model_id, "group_column": "source", "q": 0.2}
    audit = client.post("/v1/audits", json=body).json()
    assert (audit["model_id"], audit["group_column"], audit["q"]) == (model_id, "source", 0.2)


def test_progress_with_an_eta(client: TestClient, make_audit: Callable[[], Audit], sessions: Sessions) -> None:
    audit_id = make_audit().id
    held = take(sessions)
    with sessions.begin() as session:
        event = ProgressEvent(stage=Stage.TRAINING, done=30, total=100, unit="steps", eta_seconds=600)
        record_progress(session, held, event)
    response = client.get(f"/v1/audits/{audit_id}")
    audit = response.json()
    assert (audit["status"], audit["stage"], audit["attempt"]) == ("running", "training", 1)
    progress = audit["progress"]
    assert (progress["done"], progress["total"], progress["unit"]) == (30, 100, "steps")
    assert 0 < progress["eta_seconds"] <= 600
    assert datetime.fromisoformat(progress["eta"]) > datetime.fromisoformat(audit["started_at"])
    assert int(response.headers["retry-after"]) > 0


def test_a_finished_audit(client: TestClient, make_audit: Callable[[], Audit], sessions: Sessions) -> None:
    audit_id = make_audit().id
    held = take(sessions)
    response = client.get(f"/v1/audits/{audit_id}/summary")
    assert (response.status_code, response.json()["code"]) == (409, "audit_not_finished")
    with sessions.begin() as session:
        publish(session, held, summary_of())
    response = client.get(f"/v1/audits/{audit_id}")
    audit = response.json()
    assert "retry-after" not in response.headers
    assert (audit["status"], audit["stage"], audit["progress"]) == ("succeeded", None, None)
    assert Summary.model_validate(audit["summary"]) == summary_of()
    assert client.get(f"/v1/audits/{audit_id}/summary").json() == audit["summary"]
    assert "summary" not in client.get("/v1/audits").json()["data"][0]


def test_a_failed_audit_says_why(client: TestClient, make_audit: Callable[[], Audit], sessions: Sessions) -> None:
    audit_id = make_audit().id
    failure = Failure(code=ErrorCode.LOSS_NOT_FINITE, message="The loss became NaN.", hint="Lower learning_rate.")
    held = take(sessions)
    with sessions.begin() as session:
        fail(session, held, failure)
    audit = client.get(f"/v1/audits/{audit_id}").json()
    assert audit["status"] == "failed"
    assert Failure.model_validate(audit["error"]) == failure
    response = client.get(f"/v1/audits/{audit_id}/summary")
    assert (response.status_code, response.json()["code"]) == (409, "audit_not_finished")


def test_many_audits_send_no_more_wake_ups_than_there_are_idle_workers(
    client: TestClient, request_body: dict[str, Any], settings: Settings, sessions: Sessions
) -> None:
    assert settings.broker_url is not None

    def waiting() -> int:
        assert settings.broker_url is not None
        with redis.Redis.from_url(settings.broker_url.get_secret_value().replace("redis+socket", "unix")) as broker:
            return int(broker.llen("gpu"))

    def create(count: int) -> None:
        for _ in range(count):
            assert client.post("/v1/audits", json=request_body).status_code == 202

    create(2)
    assert waiting() == 0
    with sessions.begin() as session:
        for owner in ("w", "v", "busy"):
            beat(session, owner=owner, lane="gpu", host="h", pid=1)
        beat(session, owner="other", lane="io", host="h", pid=1)
        assert claim(session, lane="gpu", owner="busy") is not None
    create(5)
    assert waiting() == 2


def test_trying_again(client: TestClient, make_audit: Callable[[], Audit], sessions: Sessions) -> None:
    audit_id = make_audit().id
    held = take(sessions)
    with sessions.begin() as session:
        assert fail(session, held, Failure(code=ErrorCode.OUT_OF_MEMORY, message="m", hint="h"))
    assert client.get(f"/v1/audits/{audit_id}").json()["error"]["code"] == "out_of_memory"
    for _ in range(2):
        response = client.post(f"/v1/audits/{audit_id}/retry")
        assert response.status_code == 202
        audit = response.json()
        assert (audit["status"], audit["attempt"], audit["error"], audit["finished_at"]) == ("queued", 1, None, None)
    again = take(sessions)
    assert (again.subject_id, again.attempt) == (audit_id, 2)
    assert client.post(f"/v1/audits/{audit_id}/retry").json()["status"] == "running"
    client.post(f"/v1/audits/{audit_id}/cancel")
    refused = client.post(f"/v1/audits/{audit_id}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "audit_not_retryable")
    with sessions.begin() as session:
        assert mark_cancelled(session, again)
    assert client.post(f"/v1/audits/{audit_id}/retry").json()["status"] == "queued"
    last = take(sessions)
    with sessions.begin() as session:
        assert publish(session, last, summary_of())
    refused = client.post(f"/v1/audits/{audit_id}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "audit_not_retryable")
    assert client.post("/v1/audits/aud_nowhere/retry").status_code == 404
    events = client.get(f"/v1/audits/{audit_id}/events").json()["data"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["attempt"] for event in events] == sorted(event["attempt"] for event in events)


def test_trying_again_takes_the_right_to_write(
    make_client: Callable[..., TestClient], make_audit: Callable[[], Audit], other_workspace_id: str
) -> None:
    audit_id = make_audit().id
    assert make_client("findings:read").post(f"/v1/audits/{audit_id}/retry").status_code == 403
    foreign = make_client("audits:write", workspace=other_workspace_id)
    assert foreign.post(f"/v1/audits/{audit_id}/retry").status_code == 404


def test_cancelling(client: TestClient, make_audit: Callable[[], Audit], sessions: Sessions) -> None:
    running, queued = make_audit().id, make_audit().id
    held = take(sessions)
    assert held.subject_id == running
    for _ in range(2):
        response = client.post(f"/v1/audits/{queued}/cancel")
        assert (response.status_code, response.json()["status"]) == (202, "cancelled")
        response = client.post(f"/v1/audits/{running}/cancel")
        assert (response.status_code, response.json()["status"]) == (202, "cancelling")
    with sessions.begin() as session:
        mark_cancelled(session, held)
    audit = client.get(f"/v1/audits/{running}").json()
    assert audit["status"] == "cancelled"
    assert audit["created_at"] <= audit["started_at"] <= audit["cancel_requested_at"] <= audit["finished_at"]
    response = client.post("/v1/audits/aud_nope/cancel")
    assert (response.status_code, response.json()["code"]) == (404, "audit_not_found")


def test_the_list_by_status(client: TestClient, make_audit: Callable[[], Audit], sessions: Sessions) -> None:
    first, second, third = make_audit().id, make_audit().id, make_audit().id
    take(sessions)

    def ids(query: str = "") -> list[str]:
        return [audit["id"] for audit in client.get(f"/v1/audits{query}").json()["data"]]

    assert ids() == [third, second, first]
    assert ids("?status=running") == [first]
    assert ids("?status=queued") == [third, second]
    assert ids("?status=failed") == []
    assert client.get("/v1/audits?status=asleep").status_code == 422
    page = client.get("/v1/audits?status=queued&limit=1").json()
    assert page["has_more"]
    assert ids(f"?status=queued&limit=1&after={page['next_after']}") == [second]


def test_events_can_be_followed(client: TestClient, make_audit: Callable[[], Audit], sessions: Sessions) -> None:
    audit_id = make_audit().id
    held = take(sessions)
    path = f"/v1/audits/{audit_id}/events"
    page = client.get(path).json()
    assert [(event["seq"], event["type"]) for event in page["data"]] == [(1, "state"), (2, "state")]
    assert page["has_more"] is False
    after = page["next_after"]
    assert client.get(path, params={"after": after}).json()["data"] == []
    with sessions.begin() as session:
        record_event(session, held, level="info", type="metric", message="", data={"loss": 1.5})
    (event,) = client.get(path, params={"after": after}).json()["data"]
    assert (event["object"], event["seq"], event["type"], event["data"]) == ("audit.event", 3, "metric", {"loss": 1.5})
    assert event["attempt"] == 1
    first = client.get(path, params={"limit": 2}).json()
    assert first["has_more"]
    assert [e["seq"] for e in client.get(path, params={"after": first["next_after"]}).json()["data"]] == [3]


def test_the_list_is_searched_by_name_and_by_who_created(
    client: TestClient,
    make_client: Callable[..., TestClient],
    request_body: dict[str, Any],
    sessions: Sessions,
    workspace_id: str,
    other_workspace_id: str,
) -> None:
    with sessions.begin() as session:
        made = add_audit(session, workspace_id)
        session.get_one(Dataset, made.dataset_id).name = "100%_Plants.jsonl"
        add_audit(session, other_workspace_id)
    mine = client.post("/v1/audits", json=request_body).json()
    colleague = make_client("audits:write")
    theirs = colleague.post("/v1/audits", json=request_body).json()
    key_ids = {audit["id"]: audit["key_id"] for audit in client.get("/v1/audits").json()["data"]}
    assert key_ids[made.id] is None
    assert len(set(key_ids.values())) == len(key_ids) == 3

    def found(who: TestClient, **query: Any) -> list[str]:
        return [audit["id"] for audit in who.get("/v1/audits", params=query).json()["data"]]

    assert found(client, mine=True) == [mine["id"]]
    assert found(colleague, mine=True) == [theirs["id"]]
    assert found(client, search="plants") == found(client, search="%_P") == [made.id]
    assert found(client, search="SMOLLM2") == [theirs["id"], mine["id"]], "by the model"
    assert found(client, search="cars") == [theirs["id"], mine["id"], made.id], "by a probe"
    assert found(client, search="smollm2", mine=True, status="queued") == [mine["id"]]
    assert found(client, search="smollm2", mine=True, status="failed") == found(client, search="x%s") == []
    assert found(make_client(workspace=other_workspace_id), search="plants") == []


def test_high_priority_is_for_admins(
    make_client: Callable[..., TestClient], client: TestClient, request_body: dict[str, Any], sessions: Sessions
) -> None:
    writer = make_client("audits:write")
    refused = writer.post("/v1/audits", json={**request_body, "priority": "high"})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    assert refused.json()["errors"] == [{"pointer": "#/priority", "detail": "needs the scope admin"}]
    unknown = writer.post("/v1/audits", json={**request_body, "priority": "urgent"})
    assert (unknown.status_code, unknown.json()["errors"][0]["pointer"]) == (422, "#/priority")
    asked = [(writer, {"priority": "low"}), (writer, {}), (client, {"priority": "high"})]
    audits = [one.post("/v1/audits", json={**request_body, **more}).json() for one, more in asked]
    assert [audit["priority"] for audit in audits] == ["low", "normal", "high"]
    assert [job["priority"] for job in client.get("/v1/queue").json()["queues"][0]["jobs"]] == ["high", "normal", "low"]
    taken = [take(sessions).subject_id for _ in audits]
    assert taken == [audit["id"] for audit in reversed(audits)]
