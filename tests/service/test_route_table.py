"""Every route there is: who may ask, and that no workspace sees another's rows."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from builders import add_audit, add_dataset, add_model, add_probe, summary_of
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.http.auth import require
from service.keys.secrets import create_key
from service.lifecycle.commands import claim, publish

PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/sign-in"),
    ("POST", "/sign-out"),
    ("GET", "/static/{name}"),
    ("GET", "/favicon.ico"),
}


BODIES: dict[tuple[str, str], Any] = {
    ("PUT", "/v1/audits/{audit_id}/findings/{row}/verdict"): {"verdict": "confirmed"},
    ("POST", "/v1/audits/{audit_id}/verdicts"): {"filter": {}, "verdict": "confirmed", "dry_run": True},
}
"""What a route needs to get as far as looking for its id."""


def routes(app: FastAPI) -> Iterator[tuple[str, str, Any]]:
    for context in iter_route_contexts(app.routes):
        assert context.methods, f"{context.path}: a mount or websocket that this test does not understand"
        for method in sorted(context.methods):
            yield method, str(context.path), context


def dependencies(dependant: Dependant) -> Iterator[object]:
    for child in dependant.dependencies:
        yield child.call
        yield from dependencies(child)


def test_no_route_without_authentication_but_the_public_ones(app: FastAPI) -> None:
    open_routes = {
        (method, path)
        for method, path, context in routes(app)
        if not any(isinstance(call, require) for call in dependencies(context.dependant))
    }
    assert open_routes == PUBLIC


def test_every_other_route_refuses_a_stranger(app: FastAPI, anonymous_client: TestClient) -> None:
    asked = 0
    for method, path, _ in routes(app):
        if (method, path) in PUBLIC:
            continue
        address = path.replace("{row}", "0")
        response = anonymous_client.request(method, address.replace("{", "").replace("}", ""))
        assert response.status_code == 401, (method, path, response.text)
        asked += 1
    assert asked > 20


@pytest.fixture
def owned(sessions: sessionmaker[Session], workspace_id: str) -> dict[str, str]:
    """One of everything, in the default workspace."""
    with sessions.begin() as session:
        audit = add_audit(session, workspace_id)
        held = claim(session, lane="gpu", owner="w")
        assert held is not None
        assert publish(session, held, summary_of())
        key, _ = create_key(session, workspace_id=workspace_id, name="k", scopes=["admin"])
        return {
            "audit_id": audit.id,
            "dataset_id": add_dataset(session, workspace_id),
            "probe_id": add_probe(session, workspace_id),
            "model_id": add_model(session, workspace_id),
            "key_id": key.id,
            "row": "0",
        }


def test_every_route_with_an_id_hides_other_workspaces(
    app: FastAPI,
    client: TestClient,
    make_client: Callable[..., TestClient],
    other_workspace_id: str,
    owned: dict[str, str],
    sessions: sessionmaker[Session],
) -> None:
    stranger = make_client("admin", workspace=other_workspace_id)
    tried = []
    # Deletions last: the owner's own request below must still find its rows.
    for method, path, _ in sorted(routes(app), key=lambda route: (route[0] == "DELETE", route[1])):
        names = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        if not names or (method, path) in PUBLIC:
            continue
        assert names <= set(owned), f"{path}: add its ids to the fixture"
        address = path.format(**owned)
        body = BODIES.get((method, path))
        response = stranger.request(method, address, json=body)
        assert response.status_code == 404, (method, path, response.status_code)
        if not path.startswith("/v1/"):
            continue
        refusal = response.json()
        assert refusal["code"].endswith("_not_found"), (method, path, refusal)
        # It is the workspace that makes the difference: the same id, made up, is answered alike.
        nowhere = path.format(**dict.fromkeys(owned, "nope_1") | {"row": "0"})
        made_up = stranger.request(method, nowhere, json=body).json()
        assert {**made_up, "instance": "", "request_id": ""} == {**refusal, "instance": "", "request_id": ""}
        mine = client.request(method, address, json=body)
        if not (names & {"dataset_id", "row"}):  # those need files in the object store too
            assert mine.status_code < 300 or mine.status_code == 409, (method, path, mine.text)
        tried.append((method, path))
    assert len(tried) >= 14


def test_lists_hide_other_workspaces(
    app: FastAPI,
    client: TestClient,
    make_client: Callable[..., TestClient],
    other_workspace_id: str,
    owned: dict[str, str],
) -> None:
    stranger = make_client("admin", workspace=other_workspace_id)
    ids = {value for name, value in owned.items() if name != "row"}
    lists = ["/v1/audits", "/v1/datasets", "/v1/keys", "/v1/models", "/v1/probes"]
    assert lists == sorted(
        path
        for method, path, _ in routes(app)
        if method == "GET" and path.startswith("/v1/") and path[4:].isalpha()
        if path not in ("/v1/info", "/v1/comparisons")  # the second is no list, and has a test of its own
    )
    seen = set()
    for path in lists:
        assert not ids & {item["id"] for item in stranger.get(path).json()["data"]}
        seen |= {item["id"] for item in client.get(path).json()["data"]}
    assert ids <= seen


def test_an_audit_cannot_stand_on_another_workspaces_rows(
    make_client: Callable[..., TestClient],
    other_workspace_id: str,
    owned: dict[str, str],
    sessions: sessionmaker[Session],
) -> None:
    stranger = make_client("admin", workspace=other_workspace_id)
    with sessions.begin() as session:
        own = {
            "dataset_id": add_dataset(session, other_workspace_id),
            "probe_ids": [add_probe(session, other_workspace_id)],
            "model_id": add_model(session, other_workspace_id),
        }
    assert stranger.post("/v1/audits", json=own).status_code == 202
    for field, foreign, code in [
        ("dataset_id", owned["dataset_id"], "dataset_not_found"),
        ("probe_ids", [owned["probe_id"]], "probe_not_found"),
        ("model_id", owned["model_id"], "model_not_found"),
        ("model_id", "smollm2-135m-instruct", "model_not_found"),
    ]:
        response = stranger.post("/v1/audits", json={**own, field: foreign})
        assert (response.status_code, response.json()["code"]) == (422, code)
