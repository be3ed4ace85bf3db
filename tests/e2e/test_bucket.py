"""An upload and an audit whose objects lie in a bucket: the whole service, with a scripted child."""

import json
import threading
import time
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.app import create_app
from service.keys.secrets import create_key
from service.settings import Settings
from service.store.object_store_factory import make_object_store
from service.store.objects import audit_key, dataset_key
from service.store.patience import OF_A_REQUEST
from tests.support.children.scripting import FINISHED, OUTPUTS, spawning
from tests.support.live_api import live_api
from tests.support.s3_server import S3Server
from tests.support.waiting import wait_for
from worker.supervisor.dispatch import Supervisor

ROWS = b"".join(
    json.dumps(
        {"messages": [{"role": "user", "content": f"Q{row}"}, {"role": "assistant", "content": f"The answer {row}."}]}
    )
    .encode()
    .ljust(200)
    + b"\n"
    for row in range(40)
)


@pytest.fixture
def in_bucket(settings: Settings, bucket: str, s3_server: S3Server) -> Settings:
    return settings.model_copy(
        update={"object_url": f"s3://{bucket}/ft", "object_endpoint": s3_server.endpoint, "findings_top": 5}
    )


@pytest.mark.e2e
def test_upload_audit_findings_and_deletion(
    in_bucket: Settings, s3_server: S3Server, sessions: sessionmaker[Session], workspace_id: str, tmp_path: Path
) -> None:
    with sessions.begin() as session:
        _, secret = create_key(session, workspace_id=workspace_id, name="test", scopes=["admin"])
    objects = make_object_store(in_bucket)
    with TestClient(create_app(in_bucket), base_url="http://127.0.0.1") as client:
        client.headers["Authorization"] = f"Bearer {secret}"
        answer = client.post("/v1/datasets", content=ROWS)
        assert answer.status_code == 201, answer.text
        dataset = answer.json()["id"]
        with objects.open(dataset_key(workspace_id, dataset, "original")) as file:
            assert file.read() == ROWS
        page = client.get(f"/v1/datasets/{dataset}/rows", params={"limit": 2}).json()
        assert [row["messages"][0]["content"] for row in page["data"]] == ["Q0", "Q1"]

        item = {"prompt": "p", "unwanted": "u"}
        probe = client.post("/v1/probes", json={"name": "p", "items": [item]}).json()["id"]
        asked = {"dataset_id": dataset, "probe_ids": [probe], "model_id": "llama-3.1-8b", "training": {"seed": 7}}
        audit = client.post("/v1/audits", json=asked).json()["id"]
        supervisor = Supervisor(
            in_bucket,
            sessions,
            objects,
            owner="test",
            stopping=threading.Event(),
            launcher=spawning([OUTPUTS, FINISHED]),
        )
        assert supervisor.run_due("gpu") == 1
        assert client.get(f"/v1/audits/{audit}").json()["status"] == "succeeded"
        assert objects.exists(audit_key(workspace_id, audit, 1, "train:7", "recording.npz"))
        # Of rank 40: its text is not in the database.
        finding = client.get(f"/v1/audits/{audit}/findings/0").json()
        assert finding["messages"][0]["content"] == "Q0"

        refused = client.post("/v1/datasets", content=b"no record\n")
        assert refused.status_code == 422
        second = client.post("/v1/datasets", content=ROWS).json()["id"]
        assert client.delete(f"/v1/datasets/{second}").status_code == 204
        assert not objects.exists(dataset_key(workspace_id, second, "original"))

        objects.delete_tree(dataset_key(workspace_id, dataset))
        gone = client.get(f"/v1/datasets/{dataset}/rows")
        assert (gone.status_code, gone.json()["code"]) == (500, "object_missing")
    assert not (in_bucket.data_dir / "objects").exists()
    assert [path for path in in_bucket.data_dir.rglob("*") if path.is_file()] == []


@pytest.mark.e2e
def test_a_store_that_is_away_is_a_503_and_leaves_nothing(
    in_bucket: Settings, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    away = in_bucket.model_copy(update={"object_endpoint": "http://127.0.0.1:9"})
    with sessions.begin() as session:
        _, secret = create_key(session, workspace_id=workspace_id, name="test", scopes=["admin"])
    with TestClient(create_app(away), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {secret}"
        answer = client.post("/v1/datasets", content=ROWS)
        assert (answer.status_code, answer.json()["code"]) == (503, "object_store_unavailable")
        assert client.get("/v1/datasets").json()["data"] == []


@pytest.mark.e2e
def test_a_bucket_that_stalls_leaves_other_requests_their_threads(in_bucket: Settings, s3_server: S3Server) -> None:
    """Forty read rows of a bucket that answers nobody, each for a minute; the list of audits needs no bucket."""
    statuses: list[int] = []
    took: list[float] = []
    with (
        live_api(in_bucket) as api,
        httpx.Client(
            base_url=api.url,
            headers={"Authorization": f"Bearer {api.key}"},
            timeout=180,
            limits=httpx.Limits(max_connections=50),
        ) as client,
    ):
        dataset = client.post("/v1/datasets", content=ROWS).json()["id"]

        def read(number: int) -> None:
            answer = client.get(f"/v1/datasets/{dataset}/rows", params={"limit": number + 1})
            statuses.append(answer.status_code)

        readers = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(40)]
        s3_server.freeze()
        try:
            for reader in readers:
                reader.start()
            # From the first moment on: no reader has a connection or one of the threads of others.
            for _ in range(20):
                began = time.monotonic()
                assert client.get("/v1/audits").status_code == 200
                took.append(time.monotonic() - began)
                assert open_transactions(in_bucket) == 0
            # Were a thread held, who waits for it would wait until its reader gives up.
            assert max(took) < OF_A_REQUEST.answer_seconds
            # Most are refused long before those who wait for the bucket give up.
            wait_for(lambda: len(statuses) >= 20, seconds=40, what=lambda: f"{len(statuses)} answers")
            wait_for(lambda: len(statuses) == 40, seconds=65, what=lambda: f"{len(statuses)} answers")
            assert set(statuses) == {503}
            ready = client.get("/readyz", timeout=20)
            assert (ready.status_code, ready.json()["objects"]) == (200, "away")
        finally:
            s3_server.thaw()
        for reader in readers:
            reader.join(120)
        assert len(statuses) == 40
        assert set(statuses) <= {200, 503}
        assert client.get(f"/v1/datasets/{dataset}/rows").status_code == 200


def open_transactions(settings: Settings) -> int:
    """Of the API, in which nothing happens."""
    assert settings.database_url is not None
    url = make_url(settings.database_url.get_secret_value()).set(drivername="postgresql")
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'finetooth-api' "
        "AND state = 'idle in transaction' AND state_change < now() - interval '1 second'"
    )
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        (count,) = connection.execute(query).fetchone() or (0,)
    return int(count)
