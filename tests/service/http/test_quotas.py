"""What one workspace may have at most, over REST; another one has as much."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from service.store.tables import IdempotencyRecord
from tests.support.builders import add_dataset, add_model, add_probe
from tests.support.dataset_records import chats
from tests.support.made_audits import make_published

PROBE = {"name": "cars", "items": [{"prompt": "Which car?", "unwanted": "Only the Vexon."}]}


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """One with small quotas."""
    return create_app(
        settings.model_copy(
            update={
                "max_queued_audits": 2,
                "max_workspace_rows": 30,
                "max_workspace_probes": 2,
                "max_workspace_exports": 2,
                "max_idempotency_records": 2,
            }
        )
    )


@pytest.fixture
def other(make_client: Callable[..., TestClient], other_workspace_id: str) -> Iterator[TestClient]:
    return make_client("admin", workspace=other_workspace_id)


def refused(response: Any, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (409, code), response.text
    assert response.json()["detail"].count(".") >= 2  # what happened, and what to do


def test_probes(client: TestClient, other: TestClient) -> None:
    for _ in range(2):
        assert client.post("/v1/probes", json=PROBE).status_code == 201
    refused(client.post("/v1/probes", json=PROBE), "probe_quota")
    assert other.post("/v1/probes", json=PROBE).status_code == 201
    first = client.get("/v1/probes").json()["data"][0]["id"]
    client.delete(f"/v1/probes/{first}").raise_for_status()
    assert client.post("/v1/probes", json=PROBE).status_code == 201


def test_samples(client: TestClient, other: TestClient, settings: Settings) -> None:
    def upload(asker: TestClient, rows: int) -> Any:
        return asker.post("/v1/datasets", content=chats(rows))

    assert upload(client, 20).status_code == 201
    files = {path for path in settings.data_dir.rglob("*") if path.is_file()}
    refused(upload(client, 11), "dataset_quota")
    assert {path for path in settings.data_dir.rglob("*") if path.is_file()} == files
    assert upload(client, 10).status_code == 201
    refused(upload(client, 1), "dataset_quota")
    assert upload(other, 20).status_code == 201


def test_exports(client: TestClient, sessions: sessionmaker[Session], workspace_id: str) -> None:
    with sessions.begin() as session:
        path = f"/v1/audits/{make_published(session, workspace_id).id}/exports"
    first, _ = (client.post(path, json={"kind": "scores"}).json()["id"] for _ in range(2))
    refused(client.post(path, json={"kind": "scores"}), "export_quota")
    # One that has been cancelled counts until it is deleted.
    client.post(f"/v1/exports/{first}/cancel").raise_for_status()
    refused(client.post(path, json={"kind": "scores"}), "export_quota")
    client.delete(f"/v1/exports/{first}").raise_for_status()
    assert client.post(path, json={"kind": "scores"}).status_code == 202


def create_model(asker: TestClient, key: str | None) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    name = f"model-{uuid.uuid4().hex}" if key is None else f"model-{key}"
    body = {"name": name, "source": "hub", "location": "org/name", "revision": "0" * 40}
    return asker.post("/v1/models", json=body, headers=headers)


def test_kept_answers(client: TestClient, other: TestClient, sessions: sessionmaker[Session]) -> None:
    made = [create_model(client, key) for key in ("a", "b")]
    assert [answer.status_code for answer in made] == [201, 201]
    refused(create_model(client, "c"), "idempotency_quota")
    upload = client.post("/v1/datasets", content=chats(1), headers={"Idempotency-Key": "d"})
    refused(upload, "idempotency_quota")
    assert client.get("/v1/datasets").json()["data"] == []
    # What is kept is still answered, and who sends no key is not concerned.
    replayed = create_model(client, "a")
    assert (replayed.status_code, replayed.json()) == (201, made[0].json())
    assert create_model(client, None).status_code == 201
    assert create_model(other, "c").status_code == 201
    with sessions.begin() as session:
        session.execute(update(IdempotencyRecord).where(IdempotencyRecord.key == "b").values(expires_at=func.now()))
    assert create_model(client, "c").status_code == 201


def test_bytes_of_kept_answers(settings: Settings, make_client: Callable[..., TestClient], app: FastAPI) -> None:
    client = make_client("admin")
    first = create_model(client, "a")
    app.state.settings = settings.model_copy(update={"max_idempotency_bytes": len(first.content) + 1})
    assert create_model(client, "b").status_code == 201
    refused(create_model(client, "c"), "idempotency_quota")


def test_queued_audits(client: TestClient, sessions: sessionmaker[Session], workspace_id: str) -> None:
    with sessions.begin() as session:
        body = {
            "dataset_id": add_dataset(session, workspace_id),
            "probe_ids": [add_probe(session, workspace_id)],
            "model_id": add_model(session, workspace_id),
        }
    first, _ = (client.post("/v1/audits", json=body).json()["id"] for _ in range(2))
    refused(client.post("/v1/audits", json=body), "queued_audits_quota")
    assert client.post(f"/v1/audits/{first}/retry").status_code == 202  # it is queued, and stays so
    client.post(f"/v1/audits/{first}/cancel").raise_for_status()
    assert client.post("/v1/audits", json=body).status_code == 202
    refused(client.post(f"/v1/audits/{first}/retry"), "queued_audits_quota")
