"""Keys over REST: the text is shown once, and a key ends when it is told to."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.http.tokens import is_well_formed


def ask(client: TestClient, secret: str, path: str = "/v1/info") -> Any:
    return client.get(path, headers={"Authorization": f"Bearer {secret}"})


def test_a_key_is_made_shown_once_and_works(client: TestClient, anonymous_client: TestClient) -> None:
    response = client.post("/v1/keys", json={"name": "ci", "scopes": ["audits:write", "datasets:write"]})
    assert response.status_code == 201
    made = response.json()
    assert is_well_formed(made["secret"])
    assert made["secret"].startswith(made["prefix"])
    assert made["scopes"] == ["audits:write", "datasets:write"]
    assert (made["revoked_at"], made["expires_at"], made["last_used_at"]) == (None, None, None)
    assert ask(anonymous_client, made["secret"]).status_code == 200
    listed = client.get("/v1/keys")
    assert made["secret"] not in listed.text
    row = next(key for key in listed.json()["data"] if key["id"] == made["id"])
    assert row["last_used_at"] is not None
    assert "secret" not in row


def test_rotation_ends_the_old_text(client: TestClient, anonymous_client: TestClient) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]}).json()
    rotated = client.post(f"/v1/keys/{made['id']}/rotate").json()
    assert (rotated["id"], rotated["name"], rotated["scopes"]) == (made["id"], "ci", ["admin"])
    assert ask(anonymous_client, made["secret"]).status_code == 401
    assert ask(anonymous_client, rotated["secret"]).status_code == 200


def test_revocation_is_at_once_and_for_good(client: TestClient, anonymous_client: TestClient) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]}).json()
    for _ in range(2):
        assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert ask(anonymous_client, made["secret"]).status_code == 401
    response = client.post(f"/v1/keys/{made['id']}/rotate")
    assert (response.status_code, response.json()["code"]) == (409, "key_revoked")
    assert next(key for key in client.get("/v1/keys").json()["data"] if key["id"] == made["id"])["revoked_at"]


def test_a_key_that_expires(client: TestClient, anonymous_client: TestClient) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    made = client.post("/v1/keys", json={"name": "x", "scopes": ["admin"], "expires_at": soon.isoformat()}).json()
    assert datetime.fromisoformat(made["expires_at"]) == soon
    assert ask(anonymous_client, made["secret"]).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "", "scopes": ["admin"]},
        {"name": " \n", "scopes": ["admin"]},
        {"name": "a\0b", "scopes": ["admin"]},
        {"name": "x" * 201, "scopes": ["admin"]},
        {"name": "x", "scopes": ["admin"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "x", "scopes": ["admin"], "expires_at": "2099-01-01T00:00:00"},
        {"name": "x", "scopes": ["admin"], "surprise": 1},
    ],
)
def test_bad_requests_make_nothing(client: TestClient, body: dict[str, Any]) -> None:
    before = client.get("/v1/keys").json()["data"]
    response = client.post("/v1/keys", json=body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert [key["id"] for key in client.get("/v1/keys").json()["data"]] == [key["id"] for key in before]


def test_a_key_cannot_make_itself_more(make_client: Callable[..., TestClient]) -> None:
    lesser = make_client("audits:write", "datasets:write", "findings:read", "verdicts:write")
    assert lesser.post("/v1/keys", json={"name": "x", "scopes": ["admin"]}).status_code == 403
