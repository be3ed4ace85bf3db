"""The page of keys: made, given a new text and revoked without a line of JSON."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.store.tables import ApiKey
from tests.support.pages import OURS, Page, SignIn

Sessions = sessionmaker[Session]


def secret_of(text: str) -> str:
    ((_, secret),) = Page(text).all("code", id="secret")
    return secret.strip()


def may(client: TestClient, secret: str, path: str) -> int:
    """Status of a request with that key alone."""
    client.cookies.clear()
    return client.get(path, headers={"Authorization": f"Bearer {secret}"}).status_code


def key_named(client: TestClient, name: str) -> dict:
    (found,) = [key for key in client.get("/v1/keys").json()["data"] if key["name"] == name]
    return found


def test_a_key_is_made_shown_once_and_works(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    form = {"name": "<b>nightly</b> import", "scope.findings:read": "on", "scope.datasets:write": "on", "days": "30"}
    answer = client.post("/keys", data=form, headers=OURS)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    secret = secret_of(answer.text)
    assert "<b>nightly" not in answer.text
    key = key_named(client, form["name"])
    assert key["scopes"] == ["datasets:write", "findings:read"]
    ends = datetime.fromisoformat(key["expires_at"])
    assert timedelta(days=29, hours=23) < ends - datetime.now(UTC) < timedelta(days=30, minutes=1)
    shown = Page(client.get("/keys").text)
    assert secret not in shown.text
    assert not shown.all("code", id="secret")
    assert may(client, secret, f"/v1/audits/{published}/findings") == 200
    assert may(client, secret, "/v1/keys") == 403


@pytest.mark.parametrize(
    "form",
    [
        {"name": "", "scope.findings:read": "on", "days": "30"},
        {"name": "none ticked", "days": "30"},
        {"name": "odd", "scope.findings:read": "on", "days": "31"},
        {"name": "x" * 201, "scope.findings:read": "on", "days": ""},
        {"other": "x"},
    ],
)
def test_what_is_missing_is_said_and_no_key_is_made(sign_in: SignIn, sessions: Sessions, form: dict[str, str]) -> None:
    client = sign_in()
    before = len(client.get("/v1/keys").json()["data"])
    answer = client.post("/keys", data=form, headers=OURS)
    assert answer.status_code == 422
    assert "tick what it may do" in Page(answer.text).text
    assert len(client.get("/v1/keys").json()["data"]) == before


def test_a_new_text_ends_the_old_one_and_revoking_ends_all(sign_in: SignIn, sessions: Sessions) -> None:
    client = sign_in()
    first = secret_of(client.post("/keys", data={"name": "robot", "scope.admin": "on", "days": ""}, headers=OURS).text)
    key = key_named(client, "robot")
    assert key["expires_at"] is None
    second = secret_of(client.post(f"/keys/{key['id']}/rotate", headers=OURS).text)
    assert second != first
    assert client.post(f"/keys/{key['id']}/revoke", headers=OURS).headers["location"] == "/keys"
    page = Page(client.get("/keys").text)
    assert "revoked" in page.text
    assert not page.all("form", action=f"/keys/{key['id']}/rotate")
    with sessions() as session:
        assert session.get_one(ApiKey, key["id"]).revoked_at is not None
    assert [may(client, secret, "/v1/keys") for secret in (first, second)] == [401, 401]


def test_one_s_own_key_has_no_buttons_and_who_is_no_admin_sees_nothing(sign_in: SignIn) -> None:
    client = sign_in()
    page = Page(client.get("/keys").text)
    own = key_named(client, "browser")["id"]
    assert "This browser's" in page.text
    assert not page.all("form", action=f"/keys/{own}/revoke")
    other = sign_in("findings:read", "audits:write")
    assert other.get("/keys").status_code == 403
    assert not Page(other.get("/audits").text).all("a", href="/keys")
