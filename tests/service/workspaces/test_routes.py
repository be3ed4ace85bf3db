"""Workspaces over REST: an admin of the installation makes tenants and their first keys; a tenant sees itself alone."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.store.seed import REGISTERED_MODELS


def test_a_tenant_from_nothing_to_its_own_keys(
    client: TestClient, anonymous_client: TestClient, workspace_id: str
) -> None:
    response = client.post("/v1/workspaces", json={"name": "red team"})
    assert response.status_code == 201
    made = response.json()
    assert response.headers["location"] == f"/v1/workspaces/{made['id']}"
    assert client.get(f"/v1/workspaces/{made['id']}").json() == made
    first = client.post(f"/v1/workspaces/{made['id']}/keys", json={"name": "first", "scopes": ["admin"]}).json()
    assert first["id"] not in {key["id"] for key in client.get("/v1/keys").json()["data"]}

    def ask(method: str, path: str, **options: Any) -> Any:
        return anonymous_client.request(method, path, headers={"Authorization": f"Bearer {first['secret']}"}, **options)

    assert ask("GET", "/v1/workspaces").json()["data"] == [made]
    names = {model["name"] for model in ask("GET", "/v1/models").json()["data"]}
    assert names == {model["name"] for model in REGISTERED_MODELS}
    assert [key["id"] for key in ask("GET", "/v1/keys").json()["data"]] == [first["id"]]
    assert ask("POST", "/v1/keys", json={"name": "ci", "scopes": ["audits:write"]}).status_code == 201


def test_the_installation_sees_all_and_a_tenant_itself(
    client: TestClient, make_client: Callable[..., TestClient], workspace_id: str, other_workspace_id: str
) -> None:
    seen = [workspace["id"] for workspace in client.get("/v1/workspaces").json()["data"]]
    assert seen == [other_workspace_id, workspace_id]
    page = client.get("/v1/workspaces?limit=1").json()
    rest = client.get(f"/v1/workspaces?limit=1&after={page['next_after']}").json()
    assert [page["data"][0]["id"], rest["data"][0]["id"]] == seen
    for scope, workspace in [
        ("admin", other_workspace_id),
        ("audits:write", other_workspace_id),
        ("audits:write", workspace_id),
    ]:
        key = make_client(scope, workspace=workspace)
        assert [found["id"] for found in key.get("/v1/workspaces").json()["data"]] == [workspace]
        other = ({workspace_id, other_workspace_id} - {workspace}).pop()
        assert key.get(f"/v1/workspaces/{workspace}").status_code == 200
        response = key.get(f"/v1/workspaces/{other}")
        assert (response.status_code, response.json()["code"]) == (404, "workspace_not_found")


def test_only_the_installation_makes_workspaces(
    make_client: Callable[..., TestClient], other_workspace_id: str, workspace_id: str
) -> None:
    response = make_client("admin", workspace=other_workspace_id).post("/v1/workspaces", json={"name": "x"})
    assert (response.status_code, response.json()["code"]) == (403, "installation_admin_only")
    response = make_client("audits:write").post("/v1/workspaces", json={"name": "x"})
    assert (response.status_code, response.json()["code"]) == (403, "scope_missing")


def test_a_tenants_admin_makes_keys_of_its_own_workspace_alone(
    make_client: Callable[..., TestClient], other_workspace_id: str, workspace_id: str
) -> None:
    tenant = make_client("admin", workspace=other_workspace_id)
    body = {"name": "x", "scopes": ["admin"]}
    assert tenant.post(f"/v1/workspaces/{other_workspace_id}/keys", json=body).status_code == 201
    response = tenant.post(f"/v1/workspaces/{workspace_id}/keys", json=body)
    assert (response.status_code, response.json()["code"]) == (404, "workspace_not_found")


@pytest.mark.parametrize("name", ["other", "default"])
def test_a_name_is_given_once(client: TestClient, other_workspace_id: str, name: str) -> None:
    """Nobody can make a second `default`, whose admins would be the installation's."""
    response = client.post("/v1/workspaces", json={"name": name})
    assert (response.status_code, response.json()["code"]) == (409, "workspace_name_taken")


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": " "}, {"name": "a\nb"}, {"name": "x", "id": "ws_1"}])
def test_bad_requests_make_nothing(client: TestClient, body: dict[str, Any]) -> None:
    assert client.post("/v1/workspaces", json=body).json()["code"] == "invalid_request"
    assert len(client.get("/v1/workspaces").json()["data"]) == 1
