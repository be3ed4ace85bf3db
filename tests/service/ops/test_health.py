"""Alive, ready, and what the server says of itself."""

from alembic import command
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.app import create_app
from service.contract.spec import CONTRACT_VERSION, TrainingConfig
from service.migration import alembic_config, migrate
from service.settings import Settings


def test_alive_and_ready(anonymous_client: TestClient) -> None:
    alive = anonymous_client.get("/healthz")
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    ready = anonymous_client.get("/readyz")
    assert (ready.status_code, ready.json()) == (
        200,
        {"status": "ok", "objects": "ok", "broker": "ok", "queue_age_seconds": {"gpu": 0.0, "io": 0.0}},
    )


def test_without_its_broker_it_can_still_serve(settings: Settings) -> None:
    away = settings.model_copy(update={"broker_url": SecretStr("redis+socket:///nowhere.sock")})
    with TestClient(create_app(away), base_url="http://127.0.0.1") as client:
        ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["broker"]) == (200, "away")


def test_without_its_objects_it_can_still_serve(anonymous_client: TestClient, settings: Settings) -> None:
    """What it said last is good for some seconds; so it is asked for the first time without them."""
    settings.objects.rmdir()
    ready = anonymous_client.get("/readyz")
    assert (ready.status_code, ready.json()["objects"]) == (200, "away")


def test_without_its_database_it_is_alive_and_not_ready(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": SecretStr("postgresql+psycopg://nobody@127.0.0.1:1/none")})
    with TestClient(create_app(away), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["code"]) == (503, "database_unavailable")
        assert ready.headers["content-type"] == "application/problem+json"
        assert client.get("/healthz").status_code == 200


def test_not_ready_before_the_migrations(anonymous_client: TestClient, database_url: str) -> None:
    command.downgrade(alembic_config(database_url), "base")
    response = anonymous_client.get("/readyz")
    assert (response.status_code, response.json()["code"]) == (503, "schema_outdated")
    assert anonymous_client.get("/healthz").status_code == 200
    migrate(database_url)
    assert anonymous_client.get("/readyz").status_code == 200


def test_a_schema_of_a_newer_version_asks_for_the_newer_version(
    anonymous_client: TestClient, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        session.execute(text("COMMENT ON TABLE alembic_version IS '9998'"))
    answer = anonymous_client.get("/readyz").json()
    assert answer["code"] == "version_outdated"
    assert "start a newer one" in answer["detail"]
    assert "run the migrations" not in answer["detail"]


def test_info(client: TestClient) -> None:
    info = client.get("/v1/info").json()
    assert info["contract"] == CONTRACT_VERSION
    assert info["limits"]["min_dataset_rows"] == 20
    assert info["limits"]["max_json_bytes"] == 10 * 2**20
    assert set(info["formats"]) == {"messages", "alpaca", "sharegpt", "prompt_completion"}
    assert TrainingConfig.model_validate(info["training_defaults"]) == TrainingConfig()


def test_the_openapi_document(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operations = {
        (path, method): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(ids) == len(set(ids))
    assert {"create_dataset", "create_probe", "create_audit", "get_audit", "cancel_audit", "list_findings"} <= set(ids)
    for place, operation in operations.items():
        assert operation["tags"], place
        if place[0].startswith("/v1/"):
            assert {"401", "503"} <= set(operation["responses"]), place
            assert operation["security"] == [{"key": []}, {"session": []}], place
    assert "ProblemDocument" in document["components"]["schemas"]
