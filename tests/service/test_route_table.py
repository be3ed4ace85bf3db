"""Every route there is: who may ask, and that no workspace sees another's rows."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.http.auth.authentication import RequireScope
from service.http.openapi import dependencies
from service.keys.secrets import create_key, open_browser_session
from service.lifecycle.audits import publish
from service.lifecycle.exports import create_export
from service.lifecycle.jobs import claim
from service.principal import Scope
from service.store.score_lists import add_lists
from service.store.tables import BrowserSession
from tests.support.builders import add_audit, add_dataset, add_model, add_probe, add_upload, summary_of

ALLOWED: dict[Scope | None, set[str]] = {
    None: {
        "GET /metrics",
        "GET /openapi.json",
        "GET /v1/info",
        "GET /v1/workspaces",
        "GET /v1/workspaces/{workspace_id}",
        "GET /v1/datasets",
        "GET /v1/datasets/{dataset_id}",
        "GET /v1/datasets/{dataset_id}/rows",
        "GET /v1/datasets/{dataset_id}/changes",
        "GET /v1/datasets/{dataset_id}/versions",
        "GET /v1/datasets/{dataset_id}/statistics",
        "GET /v1/datasets/{dataset_id}/validation",
        "GET /v1/datasets/{dataset_id}/content",
        "HEAD /v1/datasets/{dataset_id}/content",
        "GET /v1/probes",
        "GET /v1/probes/{probe_id}",
        "GET /v1/probe-packs",
        "GET /v1/probe-packs/{pack_name}",
        "GET /v1/models",
        "GET /v1/models/{model_id}",
        "GET /v1/audits",
        "POST /v1/audits/estimate",
        "GET /v1/audits/{audit_id}",
        "GET /v1/audits/{audit_id}/events",
        "GET /v1/audits/{audit_id}/summary",
        "GET /v1/audits/{audit_id}/histogram",
        "GET /v1/audits/{audit_id}/curve",
        "GET /v1/audits/{audit_id}/calibration",
        "GET /v1/audits/{audit_id}/groups",
        "GET /v1/audits/{audit_id}/metrics",
    },
    "datasets:write": {
        "POST /v1/datasets",
        "DELETE /v1/datasets/{dataset_id}",
        "OPTIONS /v1/uploads",
        "POST /v1/uploads",
        "HEAD /v1/uploads/{upload_id}",
        "PATCH /v1/uploads/{upload_id}",
        "DELETE /v1/uploads/{upload_id}",
        "POST /v1/uploads/{upload_id}/dataset",
    },
    "audits:write": {
        "POST /v1/probes",
        "DELETE /v1/probes/{probe_id}",
        "POST /v1/audits",
        "POST /v1/audits/{audit_id}/cancel",
        "POST /v1/audits/{audit_id}/retry",
        "DELETE /v1/audits/{audit_id}",
    },
    "findings:read": {
        "GET /v1/audits/{audit_id}/findings",
        "GET /v1/audits/{audit_id}/findings/{row}",
        "GET /v1/audits/{audit_id}/findings/{row}/verdict",
        "GET /v1/audits/{audit_id}/findings/{row}/verdict/history",
        "GET /v1/audits/{audit_id}/precision",
        "GET /v1/audits/{audit_id}/report",
        "GET /v1/comparisons",
        "GET /v1/comparisons/changes",
        "POST /v1/audits/{audit_id}/exports",
        "GET /v1/exports",
        "GET /v1/exports/{export_id}",
        "GET /v1/exports/{export_id}/content",
        "HEAD /v1/exports/{export_id}/content",
        "POST /v1/exports/{export_id}/cancel",
        "DELETE /v1/exports/{export_id}",
    },
    "verdicts:write": {
        "PUT /v1/audits/{audit_id}/findings/{row}/verdict",
        "DELETE /v1/audits/{audit_id}/findings/{row}/verdict",
        "POST /v1/audits/{audit_id}/verdicts",
    },
    "admin": {
        "POST /v1/workspaces",
        "POST /v1/workspaces/{workspace_id}/keys",
        "POST /v1/keys",
        "GET /v1/keys",
        "GET /v1/audit-log",
        "GET /v1/sessions",
        "DELETE /v1/sessions/{session_id}",
        "GET /v1/keys/{key_id}",
        "POST /v1/keys/{key_id}/rotate",
        "DELETE /v1/keys/{key_id}",
        "POST /v1/models",
        "DELETE /v1/models/{model_id}",
    },
}
"""Which scope a request needs; None: any valid key. `admin` may do everything."""

PAGES: dict[Scope | None, set[str]] = {
    None: {
        "GET /",
        "GET /audits",
        "GET /audits/{audit_id}",
        "GET /audits/{audit_id}/histogram.svg",
        "GET /audits/{audit_id}/calibration.svg",
        "GET /audits/{audit_id}/sensitivity.svg",
        "GET /audits/{audit_id}/drift.svg",
        "GET /audits/{audit_id}/group.svg",
        "GET /audits/{audit_id}/loss.svg",
        "GET /datasets",
        "GET /datasets/{dataset_id}",
        "GET /probes",
        "GET /sessions",
        "POST /sessions/end-others",
        "POST /sessions/{session_id}/end",
    },
    "datasets:write": {"POST /datasets/{dataset_id}/delete"},
    "audits:write": {
        "GET /audits/new",
        "POST /audits/new",
        "POST /audits/{audit_id}/cancel",
        "POST /audits/{audit_id}/retry",
        "POST /audits/{audit_id}/delete",
    },
    "admin": {"GET /audit-log"},
    "findings:read": {
        "GET /audits/{audit_id}/findings",
        "GET /audits/{audit_id}/findings/{row}",
        "GET /audits/{audit_id}/findings/{row}/trace.svg",
        "GET /audits/{audit_id}/exports",
        "GET /comparisons",
        "POST /audits/{audit_id}/exports",
    },
    "verdicts:write": {
        "POST /audits/{audit_id}/findings/{row}/verdict",
        "GET /audits/{audit_id}/verdicts",
        "POST /audits/{audit_id}/verdicts",
    },
}
"""Likewise of the dashboard."""

BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/workspaces/{workspace_id}/keys": {"name": "x", "scopes": ["admin"]},
    "POST /v1/audits/{audit_id}/exports": {"kind": "cleaned"},
    "POST /v1/audits/{audit_id}/verdicts": {"filter": {}, "verdict": "confirmed", "dry_run": True},
    "PUT /v1/audits/{audit_id}/findings/{row}/verdict": {"verdict": "confirmed"},
}
"""Of requests with an id that need one."""

FORMS: dict[str, dict[str, str]] = {
    "POST /audits/{audit_id}/findings/{row}/verdict": {"verdict": "confirmed"},
    "POST /audits/{audit_id}/verdicts": {"said": "confirmed"},
    "POST /audits/{audit_id}/exports": {"kind": "cleaned"},
}
"""Likewise of pages."""

HEADERS: dict[str, dict[str, str]] = {
    "PATCH /v1/uploads/{upload_id}": {
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
    },
    "DELETE /v1/uploads/{upload_id}": {"Tus-Resumable": "1.0.0"},
}
"""Likewise headers."""

OF_NOBODY = {"pack_name"}
"""Names in paths that are not an id of anybody's row."""

PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("POST", "/sign-out"),
    ("GET", "/static/{name}"),
    ("GET", "/favicon.ico"),
}


def routes(app: FastAPI) -> Iterator[tuple[str, str, Any]]:
    for context in iter_route_contexts(app.routes):
        assert context.methods, f"{context.path}: a mount or websocket that this test does not understand"
        for method in sorted(context.methods):
            yield method, str(context.path), context


def test_no_route_without_authentication_but_the_public_ones(app: FastAPI) -> None:
    open_routes = {
        (method, path)
        for method, path, context in routes(app)
        if not any(isinstance(call, RequireScope) for call in dependencies(context.dependant))
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
        add_lists(session, audit_id=audit.id, attempt=held.attempt, probes=1)
        assert publish(session, held, summary_of())
        key, _ = create_key(session, workspace_id=workspace_id, name="k", scopes=["admin"])
        export = create_export(
            session, workspace_id=workspace_id, audit_id=audit.id, kind="scores", format="csv", filter=None, max_q=None
        )
        # Of another key: the one above is revoked on the way.
        own, _ = create_key(session, workspace_id=workspace_id, name="browser", scopes=["admin"])
        open_browser_session(session, workspace_id=workspace_id, key_id=own.id, hours=1)
        browser = session.scalars(select(BrowserSession)).one()
        return {
            "workspace_id": workspace_id,
            "audit_id": audit.id,
            "dataset_id": add_dataset(session, workspace_id),
            "probe_id": add_probe(session, workspace_id),
            "model_id": add_model(session, workspace_id),
            "key_id": key.id,
            "export_id": export.id,
            "session_id": browser.id,
            "upload_id": add_upload(session, workspace_id),
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
        if not names - OF_NOBODY or (method, path) in PUBLIC:
            continue
        assert names <= set(owned), f"{path}: add its ids to the fixture"
        address = path.format(**owned)
        body = BODIES.get(f"{method} {path}")
        form = FORMS.get(f"{method} {path}")
        headers = HEADERS.get(f"{method} {path}")
        response = stranger.request(method, address, json=body, data=form, headers=headers)
        assert response.status_code != 422, f"{method} {path}: add its body to BODIES"
        assert response.status_code == 404, (method, path, response.status_code)
        if not path.startswith("/v1/"):
            continue
        if method == "HEAD":  # it is GET without the body
            continue
        problem = response.json()
        assert problem["code"].endswith("_not_found"), (method, path, problem)
        # It is the workspace that makes the difference: the same id, made up, is answered alike.
        nowhere = path.format(**dict.fromkeys(owned, "nope_1") | {"row": "0"})
        made_up = stranger.request(method, nowhere, json=body, headers=headers).json()
        assert {**made_up, "instance": "", "request_id": ""} == {**problem, "instance": "", "request_id": ""}
        mine = client.request(method, address, json=body, headers=headers)
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
    ids = {value for name, value in owned.items() if name not in ("row", "upload_id")}  # uploads have no list
    lists = [
        "/v1/audits",
        "/v1/datasets",
        "/v1/exports",
        "/v1/keys",
        "/v1/models",
        "/v1/probes",
        "/v1/sessions",
        "/v1/workspaces",
    ]
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


def test_a_key_may_do_what_its_scope_allows_and_nothing_else(
    app: FastAPI, make_client: Callable[..., TestClient]
) -> None:
    """Every route with every scope: 403 where the table does not allow it, and something else where it does."""
    table = [(scope, request) for part in (ALLOWED, PAGES) for scope, requests in part.items() for request in requests]
    needed = {request: scope for scope, request in table}
    assert len(needed) == len(table)
    asked = {f"{method} {path}" for method, path, _ in routes(app) if (method, path) not in PUBLIC}
    assert set(needed) == asked, "a route is missing in ALLOWED or PAGES, or is gone"
    wrong = []
    for scope in get_args(Scope):
        key = make_client(scope)
        for request in sorted(asked):
            method, path = request.split(" ")
            # Nothing has this id: whoever may ask is told so.
            address = path.replace("{row}", "0").replace("{", "").replace("}", "")
            status = key.request(method, address).status_code
            if (status == 403) != (needed[request] not in (None, scope) and scope != "admin"):
                wrong.append((scope, request, status))
    assert not wrong


def test_the_documented_scopes_are_these() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    body = text.split("<!-- scopes:start -->\n", 1)[1].split("<!-- scopes:end -->", 1)[0]
    documented = {}
    for line in body.splitlines()[2:]:
        scope, requests = line.strip("|").split("|")
        documented[scope.strip().strip("`")] = {
            request for request in requests.strip().strip("`").split("`, `") if request != "none yet"
        }
    assert documented == {scope or "any valid key": requests for scope, requests in ALLOWED.items()}
