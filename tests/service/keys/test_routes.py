"""Keys over REST: the text is shown once, and a key ends when it is told to."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any, get_args

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.http.auth.key_format import is_well_formed
from service.keys.secrets import create_sign_in_link, redeem_sign_in_link
from service.principal import Scope
from service.store.tables import ApiKey

SCOPES: tuple[Scope, ...] = get_args(Scope)


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


def test_an_expiry_with_an_offset_is_said_in_utc_from_the_first_answer_on(client: TestClient) -> None:
    body = {"name": "ci", "scopes": ["admin"], "expires_at": "2061-05-01T01:15:00-03:30"}
    made = client.post("/v1/keys", json=body).json()
    assert made["expires_at"] == "2061-05-01T04:45:00Z"
    assert client.get(f"/v1/keys/{made['id']}").json()["expires_at"] == made["expires_at"]
    assert client.post(f"/v1/keys/{made['id']}/rotate").json()["expires_at"] == made["expires_at"]


def test_rotation_ends_the_old_text(client: TestClient, anonymous_client: TestClient) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]}).json()
    rotated = client.post(f"/v1/keys/{made['id']}/rotate").json()
    assert (rotated["id"], rotated["name"], rotated["scopes"]) == (made["id"], "ci", ["admin"])
    assert ask(anonymous_client, made["secret"]).status_code == 401
    assert ask(anonymous_client, rotated["secret"]).status_code == 200


def test_rotation_with_an_overlap(
    client: TestClient, anonymous_client: TestClient, sessions: sessionmaker[Session], app: Any
) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]}).json()
    ask(anonymous_client, made["secret"])
    rotated = client.post(f"/v1/keys/{made['id']}/rotate", json={"overlap_seconds": 3600}).json()
    ahead = datetime.fromisoformat(rotated["previous_expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < ahead <= timedelta(minutes=60, seconds=5)
    assert rotated["last_used_at"] is None
    assert rotated["previous_last_used_at"] is not None
    assert ask(anonymous_client, made["secret"]).status_code == 200
    assert client.get(f"/v1/keys/{made['id']}").json()["last_used_at"] is None, "the old text's use is told apart"
    assert ask(anonymous_client, rotated["secret"]).status_code == 200
    assert client.get(f"/v1/keys/{made['id']}").json()["last_used_at"] is not None
    with sessions.begin() as session:  # an hour later
        session.execute(update(ApiKey).where(ApiKey.id == made["id"]).values(previous_expires_at=func.now()))
    app.state.principals.forget()  # as after an hour
    response = ask(anonymous_client, made["secret"])
    assert (response.status_code, response.json()["code"]) == (401, "key_invalid")
    assert ask(anonymous_client, rotated["secret"]).status_code == 200


def test_the_use_of_an_old_text_is_noted(
    client: TestClient, anonymous_client: TestClient, sessions: sessionmaker[Session]
) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]}).json()
    client.post(f"/v1/keys/{made['id']}/rotate", json={"overlap_seconds": 3600})
    assert client.get(f"/v1/keys/{made['id']}").json()["previous_last_used_at"] is None
    ask(anonymous_client, made["secret"])
    assert client.get(f"/v1/keys/{made['id']}").json()["previous_last_used_at"] is not None


def test_at_most_two_texts_work(client: TestClient, anonymous_client: TestClient) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]}).json()
    path = f"/v1/keys/{made['id']}/rotate"
    second = client.post(path, json={"overlap_seconds": 3600}).json()
    third = client.post(path, json={"overlap_seconds": 60}).json()
    texts = [made["secret"], second["secret"], third["secret"]]
    assert [ask(anonymous_client, text).status_code for text in texts] == [401, 200, 200]
    fourth = client.post(path).json()
    assert fourth["previous_expires_at"] is None
    texts.append(fourth["secret"])
    assert [ask(anonymous_client, text).status_code for text in texts] == [401, 401, 401, 200]


def test_an_overlap_leaves_browsers_signed_in_and_a_rotation_at_once_does_not(
    client: TestClient, anonymous_client: TestClient, sessions: sessionmaker[Session]
) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]}).json()
    with sessions.begin() as session:
        token = create_sign_in_link(session, key_id=made["id"], minutes=5)
        cookie = redeem_sign_in_link(session, token, hours=1)
    headers = {"Cookie": f"finetooth_session={cookie}"}
    for body, status in [({"overlap_seconds": 60}, 200), ({"overlap_seconds": 0}, 401)]:
        assert client.post(f"/v1/keys/{made['id']}/rotate", json=body).status_code == 200
        assert anonymous_client.get("/v1/info", headers=headers).status_code == status


def test_revocation_ends_both_texts(client: TestClient, anonymous_client: TestClient) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]}).json()
    rotated = client.post(f"/v1/keys/{made['id']}/rotate", json={"overlap_seconds": 3600}).json()
    client.delete(f"/v1/keys/{made['id']}")
    assert [ask(anonymous_client, key["secret"]).status_code for key in (made, rotated)] == [401, 401]


def test_an_overlap_does_not_outlive_the_key(
    client: TestClient, anonymous_client: TestClient, sessions: sessionmaker[Session]
) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]}).json()
    client.post(f"/v1/keys/{made['id']}/rotate", json={"overlap_seconds": 3600})
    with sessions.begin() as session:
        session.execute(update(ApiKey).where(ApiKey.id == made["id"]).values(expires_at=func.now()))
    assert ask(anonymous_client, made["secret"]).json()["code"] == "key_expired"


@pytest.mark.parametrize("overlap", [-1, 30 * 86400 + 1, "60", 1.5, True, None])
def test_bad_overlaps_rotate_nothing(client: TestClient, anonymous_client: TestClient, overlap: Any) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]}).json()
    response = client.post(f"/v1/keys/{made['id']}/rotate", json={"overlap_seconds": overlap})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert response.json()["errors"][0]["pointer"] == "#/overlap_seconds"
    assert ask(anonymous_client, made["secret"]).status_code == 200


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
        {"name": "x", "scopes": ["admin"], "expires_at": "9999-12-31T23:59:59-14:00"},
        {"name": "x", "scopes": ["admin"], "surprise": 1},
    ],
)
def test_bad_requests_make_nothing(client: TestClient, body: dict[str, Any]) -> None:
    before = client.get("/v1/keys").json()["data"]
    response = client.post("/v1/keys", json=body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert [key["id"] for key in client.get("/v1/keys").json()["data"]] == [key["id"] for key in before]


def test_a_key_makes_none_with_more_scopes_than_itself(make_client: Callable[..., TestClient]) -> None:
    """Every set of scopes asks for every scope: what is made is never more than what its maker may."""
    made = 0
    for size in range(1, len(SCOPES) + 1):
        for own in combinations(SCOPES, size):
            maker = make_client(*own)
            for wanted in SCOPES:
                response = maker.post("/v1/keys", json={"name": "x", "scopes": [wanted]})
                assert response.status_code in (201, 403)
                if response.status_code == 201:
                    assert wanted in own or "admin" in own
                    made += 1
    assert made == 16 * 5
