"""Whatever goes wrong, the answer is a problem document that says what to do and leaks nothing."""

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import (
    ConflictError,
    DomainError,
    InvalidReferenceError,
    StorageFullError,
    TimedOutError,
    UnavailableError,
)
from service.http.auth.key_format import new_key
from service.http.dependencies import SessionDep
from service.http.problems.handlers import STATUSES, problem_of
from service.http.problems.problem import Problem
from service.settings import Settings
from service.store.tables import Workspace

SECRET = "the-sample-nobody-may-see"


def check_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:finetooth:problem:{code}"
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["detail"]
    return dict(body)


def test_unknown_path(client: TestClient, anonymous_client: TestClient) -> None:
    for asker in (client, anonymous_client):
        body = check_problem(asker.get("/v1/nothing?token=x"), 404, "not_found")
        assert body["instance"] == "/v1/nothing"


def test_wrong_method_names_all_right_ones(client: TestClient) -> None:
    response = client.put("/v1/probes")
    check_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, POST"


def test_malformed_json_names_the_place(client: TestClient) -> None:
    response = client.post("/v1/probes", content=b'{"name": }', headers={"content-type": "application/json"})
    assert "character 9" in check_problem(response, 400, "malformed_json")["detail"]


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 100_000, b'"\xed\xa0\x80"', b"1" * 5000])
def test_bodies_that_break_the_parser(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/probes", content=body, headers={"content-type": "application/json"})
    assert response.status_code in {400, 422}
    check_problem(response, response.status_code, response.json()["code"])


def test_a_body_of_another_kind(client: TestClient) -> None:
    response = client.post("/v1/probes", content=b"name=x", headers={"content-type": "text/plain"})
    check_problem(response, 415, "unsupported_media_type")


def test_a_missing_body(client: TestClient) -> None:
    response = client.post("/v1/probes", headers={"content-type": "application/json"})
    assert response.status_code == 422
    check_problem(response, 422, "invalid_request")


def test_validation_points_at_every_wrong_value(client: TestClient) -> None:
    body = {"name": "x", "items": [{"prompt": "a", "unwanted": "b"}, {"prompt": 3, "a/b~c": 1, "unwanted": "b"}]}
    problem = check_problem(client.post("/v1/probes", json=body), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["#/items/1/prompt", "#/items/1/a~1b~0c"]
    problem = check_problem(client.get("/v1/probes?limit=1001"), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["query:limit"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(client: TestClient, chunked: bool) -> None:
    blob = b'{"name": "' + b"x" * (10 * 2**20) + b'"}'
    content: Any = iter([blob[:5_000_000], blob[5_000_000:]]) if chunked else blob
    response = client.post("/v1/probes", content=content, headers={"content-type": "application/json"})
    check_problem(response, 413, "body_too_large")


def test_who_sends_it_is_asked_before_the_body_is_read(anonymous_client: TestClient) -> None:
    def body() -> Any:
        raise AssertionError("the body was read")
        yield b""

    headers = {"content-type": "application/json"}
    check_problem(anonymous_client.post("/v1/probes", content=body(), headers=headers), 401, "unauthenticated")


def test_nul_in_the_address(client: TestClient) -> None:
    for path in ("/v1/probes/%00", "/v1/probes?after=%00", "/v1/audits/a%00b/events"):
        check_problem(client.get(path), 400, "nul_in_address")


@pytest.fixture
def broken_app(settings: Settings) -> FastAPI:
    """The application with routes that fail."""
    app = create_app(settings)

    @app.get("/broken/{how}")
    def broken(how: str, session: SessionDep) -> None:
        session.add(Workspace(id="ws_broken", name=SECRET))
        session.flush()
        if how == "bug":
            raise RuntimeError(SECRET)
        if how == "constraint":
            session.execute(
                text("INSERT INTO api_keys (id, workspace_id, name) VALUES ('k', 'none', :s)"), {"s": SECRET}
            )
        if how == "slow":
            session.execute(text("SET LOCAL statement_timeout = '50ms'"))
            session.execute(text("SELECT pg_sleep(5)"))
        if how == "idle":
            session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '20ms'"))
            time.sleep(0.5)
            session.execute(text("SELECT 1"))
        if how == "range":
            session.execute(text("SELECT CAST(:n AS integer)"), {"n": 2**40})
        if how == "problem":
            raise Problem(418, "teapot", "short and stout", headers={"X-Brew": "no"})
        if how == "conflict":
            raise ConflictError("teapot", "short and stout", retry_after=7)
        if how == "gone":
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    @app.get("/broken-late")
    def broken_late() -> StreamingResponse:
        def body() -> Iterator[bytes]:
            yield b"first"
            raise RuntimeError(SECRET)

        return StreamingResponse(body())

    return app


def test_an_answer_that_breaks_off_leaks_nothing_to_the_servers_log(
    broken_app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.DEBUG, logger="service"),
        TestClient(broken_app, base_url="http://127.0.0.1") as client,
        pytest.raises(ConnectionAbortedError) as raised,
    ):
        client.get("/broken-late")
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert SECRET not in caplog.text
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("bug", 500, "internal_error"),
        ("constraint", 500, "internal_error"),
        ("slow", 503, "database_busy"),
        ("idle", 503, "database_busy"),
        ("range", 422, "unstorable_value"),
        ("problem", 418, "teapot"),
        ("conflict", 409, "teapot"),
        ("gone", 503, "database_unavailable"),
    ],
)
def test_a_route_that_fails_commits_nothing_and_leaks_nothing(
    broken_app: FastAPI,
    sessions: Callable[[], Any],
    caplog: pytest.LogCaptureFixture,
    how: str,
    status: int,
    code: str,
) -> None:
    with (
        caplog.at_level(logging.DEBUG, logger="service"),
        TestClient(broken_app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client,
    ):
        response = client.get(f"/broken/{how}")
    check_problem(response, status, code)
    assert SECRET not in response.text
    assert SECRET not in caplog.text
    assert response.headers["content-security-policy"]
    if status == 500:
        assert "broken" in caplog.text  # the stack is there
        assert response.json()["request_id"] in caplog.text
    if status == 503:
        assert int(response.headers["retry-after"]) > 0
    with sessions() as session:
        assert session.get(Workspace, "ws_broken") is None


def test_errors_of_the_domain_become_problems() -> None:
    problem = problem_of(InvalidReferenceError("probe", "#/probe_ids/1"))
    assert (problem.status, problem.code, problem.headers) == (422, "probe_not_found", {})
    assert [error.model_dump() for error in problem.errors] == [{"pointer": "#/probe_ids/1", "detail": "no such probe"}]
    assert problem_of(UnavailableError("too_many_waiting", "Ask again.", retry_after=5)).headers == {"Retry-After": "5"}
    assert problem_of(TimedOutError("upload_stalled", "Upload the file again.")).status == 408
    assert problem_of(StorageFullError("storage_full", "The disk is full.")).status == 507


def test_every_error_of_the_domain_has_a_status() -> None:
    kinds = [DomainError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert len(kinds) > len(STATUSES)
    assert [kind for kind in kinds[1:] if not set(kind.__mro__) & set(STATUSES)] == []


def test_a_database_that_is_down(tmp_path: Any) -> None:
    settings = Settings(
        database_url="postgresql+psycopg://nobody@127.0.0.1:1/none",  # type: ignore[arg-type]
        data_dir=tmp_path,
    )
    with TestClient(create_app(settings), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        assert client.get("/healthz").status_code == 200
        response = client.get("/readyz")
        check_problem(response, 503, "database_unavailable")
        assert response.headers["retry-after"] == "5"
        response = client.get("/v1/probes", headers={"Authorization": f"Bearer {new_key()}"})
        check_problem(response, 503, "database_unavailable")


def test_of_very_many_wrong_values_the_first_hundred_are_named(client: TestClient) -> None:
    answer = client.post("/v1/probes", json={f"key{number}": 0 for number in range(5_000)}).json()
    assert len(answer["errors"]) == 100
    assert "500" in answer["detail"]
    assert answer["detail"].endswith("The first 100 are listed.")
