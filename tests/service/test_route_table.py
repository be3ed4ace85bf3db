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

from service.http.auth.authentication import COOKIE, RequireScope
from service.http.openapi import dependencies
from service.keys.secrets import create_key, open_browser_session
from service.lifecycle.audits import publish
from service.lifecycle.exports import create_export
from service.lifecycle.jobs import claim
from service.roles import ROLES, Role, Scope
from service.store.ids import new_id
from service.store.score_lists import add_lists
from service.store.tables import BrowserSession
from service.store.verdict_tables import SavedView, VerdictBulk
from tests.support.builders import add_audit, add_dataset, add_model, add_person, add_probe, add_upload, summary_of
from tests.support.pages import OURS
from tests.support.route_scopes import ALLOWED, PAGES

BODIES: dict[str, dict[str, Any]] = {
    "PATCH /v1/workspaces/{workspace_id}": {"max_running_audits": 1},
    "POST /v1/workspaces/{workspace_id}/keys": {"name": "x", "scopes": ["admin"]},
    "POST /v1/audits/{audit_id}/exports": {"kind": "cleaned"},
    "POST /v1/audits/{audit_id}/verdicts": {"filter": {}, "verdict": "confirmed", "dry_run": True},
    "PUT /v1/audits/{audit_id}/findings/{row}/verdict": {"verdict": "confirmed"},
    "PATCH /v1/users/{user_id}": {"role": "reviewer"},
    "PATCH /v1/views/{view_id}": {"name": "x"},
}
"""Of requests with an id that need one."""

FORMS: dict[str, dict[str, str]] = {
    "POST /usage/{workspace_id}/limits": {"max_queued_audits": "1"},
    "POST /usage/{workspace_id}/delete": {"name": "default"},
    "POST /audits/{audit_id}/findings/{row}/verdict": {"verdict": "confirmed"},
    "POST /audits/{audit_id}/verdicts": {"said": "confirmed"},
    "POST /audits/{audit_id}/exports": {"kind": "cleaned"},
    "POST /people/{user_id}/role": {"role": "reviewer"},
    "POST /audits/{audit_id}/bulks/{bulk_id}/undo": {"back": ""},
    "POST /views/{view_id}/rename": {"name": "x"},
    "POST /views/{view_id}/delete": {"back": ""},
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

QUERIES: dict[str, dict[str, str]] = {"DELETE /v1/workspaces/{workspace_id}": {"name": "default"}}
"""Likewise queries."""

OF_NOBODY = {"pack_name"}
"""Names in paths that are not an id of anybody's row."""

PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("POST", "/sign-out"),
    ("GET", "/sign-in/oidc"),
    ("POST", "/sign-in/proxy"),
    ("GET", "/sign-in/oidc/callback"),
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
        bulk = VerdictBulk(
            id=new_id("bulk"), workspace_id=workspace_id, audit_id=audit.id, key_id=own.id, verdict="unsure", filter={},
            count=0, changed=0,
        )  # fmt: skip
        view = SavedView(id=new_id("view"), workspace_id=workspace_id, name="v", query="", key_id=own.id)
        session.add_all([bulk, view])
        return {
            "workspace_id": workspace_id,
            "audit_id": audit.id,
            "dataset_id": add_dataset(session, workspace_id),
            "probe_id": add_probe(session, workspace_id),
            "model_id": add_model(session, workspace_id),
            "key_id": key.id,
            "export_id": export.id,
            "session_id": browser.id,
            "user_id": add_person(session, workspace_id, "viewer"),
            "bulk_id": bulk.id,
            "view_id": view.id,
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
        query = QUERIES.get(f"{method} {path}")
        response = stranger.request(method, address, params=query, json=body, data=form, headers=headers)
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
        made_up = stranger.request(method, nowhere, params=query, json=body, headers=headers).json()
        assert {**made_up, "instance": "", "request_id": ""} == {**problem, "instance": "", "request_id": ""}
        mine = client.request(method, address, params=query, json=body, headers=headers)
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
    ids = {value for name, value in owned.items() if name not in ("row", "bulk_id", "upload_id")}  # these have no list
    lists = [
        "/v1/audits",
        "/v1/datasets",
        "/v1/exports",
        "/v1/keys",
        "/v1/models",
        "/v1/probes",
        "/v1/sessions",
        "/v1/users",
        "/v1/views",
        "/v1/workers",
        "/v1/workspaces",
    ]
    assert lists == sorted(
        path
        for method, path, _ in routes(app)
        if method == "GET" and path.startswith("/v1/") and path[4:].isalpha()
        # The last two are no lists, and have tests of their own.
        if path not in ("/v1/info", "/v1/comparisons", "/v1/queue")
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


@pytest.mark.parametrize("role", get_args(Role))
def test_a_person_may_do_what_their_role_allows_and_nothing_else(
    app: FastAPI, anonymous_client: TestClient, sessions: sessionmaker[Session], workspace_id: str, role: Role
) -> None:
    """Every route as every role, by what its scopes are: the table of docs/api.md comes from the same."""
    with sessions.begin() as session:
        user_id = add_person(session, workspace_id, role)
        cookie = open_browser_session(session, workspace_id=workspace_id, user_id=user_id, hours=1)
    anonymous_client.cookies.set(COOKIE, cookie)
    wrong = []
    for part in (ALLOWED, PAGES):
        for scope, requests in part.items():
            may = scope is None or scope in ROLES[role] or role == "admin"
            for request in sorted(requests - {"POST /sessions/end-others"}):
                method, path = request.split(" ")
                address = path.replace("{row}", "0").replace("{", "").replace("}", "")
                status = anonymous_client.request(method, address, headers=OURS).status_code
                if status == 401 or (status == 403) == may:
                    wrong.append((request, status))
    assert not wrong


def test_every_post_refuses_a_page_of_another_site(
    app: FastAPI, anonymous_client: TestClient, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    with sessions.begin() as session:
        user_id = add_person(session, workspace_id, "admin")
        cookie = open_browser_session(session, workspace_id=workspace_id, user_id=user_id, hours=1)
    anonymous_client.cookies.set(COOKIE, cookie)
    asked = 0
    for method, path, _ in routes(app):
        if method in ("GET", "HEAD", "OPTIONS"):
            continue
        address = path.replace("{row}", "0").replace("{", "").replace("}", "")
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {}):
            answer = anonymous_client.request(method, address, headers=headers)
            assert (answer.status_code, "cross_site" in answer.text) == (403, True), (method, path, headers)
        asked += 1
    assert asked > 30


def test_the_documented_roles_are_these() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    body = text.split("<!-- roles:start -->\n", 1)[1].split("<!-- roles:end -->", 1)[0]
    lines = ["| May | " + " | ".join(ROLES) + " |", "|---|" + "---|" * len(ROLES)]
    for scope in ("any valid key", *get_args(Scope)):
        has = ["yes" if scope in ROLES[role] | {"any valid key"} or role == "admin" else "" for role in ROLES]
        lines.append(f"| {scope if ' ' in scope else f'`{scope}`'} | " + " | ".join(has) + " |")
    assert body.splitlines() == lines, "write these lines:\n" + "\n".join(lines)


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
