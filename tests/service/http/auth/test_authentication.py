"""Keys, cookies, scopes, and pages of other sites."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.http.auth.authentication import COOKIE
from service.http.auth.key_format import digest, new_key
from service.keys.secrets import create_key, create_sign_in_link
from service.store.tables import ApiKey, BrowserSession, SignInLink
from tests.support.pages import press_sign_in

Sessions = sessionmaker[Session]


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def key(sessions: Sessions, workspace_id: str) -> tuple[str, str]:
    """Id and text of an admin key."""
    with sessions.begin() as session:
        row, secret = create_key(session, workspace_id=workspace_id, name="k", scopes=["admin"])
    return row.id, secret


def test_no_key(anonymous_client: TestClient) -> None:
    response = anonymous_client.get("/v1/info")
    assert code(response) == (401, "unauthenticated")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_mistyped_key_costs_no_look_up(anonymous_client: TestClient, app: Any) -> None:
    statements: list[str] = []
    event.listen(app.state.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    good = new_key()
    wrong = [good[:-1] + ("0" if good[-1] != "0" else "1"), good[:-1], "x", "", "ft_" + "\u00e9" * 28]
    for secret in wrong:
        headers = {"Authorization": f"Bearer {secret}".encode()}
        assert code(anonymous_client.get("/v1/info", headers=headers)) == (401, "key_malformed")
    assert code(anonymous_client.get("/v1/info", headers={"Authorization": "Basic YTpi"})) == (401, "key_malformed")
    assert statements == []
    assert code(anonymous_client.get("/v1/info", headers=bearer(good))) == (401, "key_invalid")
    assert statements != []


def test_expired_and_revoked_keys(
    anonymous_client: TestClient, sessions: Sessions, key: tuple[str, str], app: Any
) -> None:
    assert anonymous_client.get("/v1/info", headers=bearer(key[1])).status_code == 200
    with sessions.begin() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(update(ApiKey).where(ApiKey.id == key[0]).values(expires_at=past))
    app.state.principals.forget()  # as after a second
    assert code(anonymous_client.get("/v1/info", headers=bearer(key[1]))) == (401, "key_expired")
    with sessions.begin() as session:
        session.execute(update(ApiKey).where(ApiKey.id == key[0]).values(expires_at=None, revoked_at=past))
    assert code(anonymous_client.get("/v1/info", headers=bearer(key[1]))) == (401, "key_invalid")


def test_the_database_holds_no_usable_key(
    sessions: Sessions, key: tuple[str, str], anonymous_client: TestClient
) -> None:
    with sessions.begin() as session:
        token = create_sign_in_link(session, key_id=key[0], minutes=5)
    cookie = press_sign_in(anonymous_client, f"/sign-in?token={token}").cookies[COOKIE]
    with sessions() as session:
        dump = ""
        for table in ("api_keys", "sign_in_links", "browser_sessions"):
            dump += str(session.execute(text(f"SELECT string_agg(t::text, '|') FROM {table} t")).scalar())
        for secret in (key[1], token, cookie):
            assert secret not in dump
            assert digest(secret).hex() in dump
        # What is shown of a key leaves more than 100 random bits unknown.
        assert len(session.scalars(select(ApiKey.prefix).where(ApiKey.id == key[0])).one()) == 7


def test_last_use_is_written_once_a_minute(
    anonymous_client: TestClient, sessions: Sessions, key: tuple[str, str], app: Any
) -> None:
    def last_used() -> Any:
        with sessions() as session:
            return session.scalars(select(ApiKey.last_used_at).where(ApiKey.id == key[0])).one()

    updates: list[str] = []
    event.listen(
        app.state.engine,
        "before_cursor_execute",
        lambda *args: updates.append(args[2]) if args[2].startswith("UPDATE") else None,
    )
    assert last_used() is None
    for _ in range(3):
        anonymous_client.get("/v1/info", headers=bearer(key[1]))
    first = last_used()
    assert first is not None
    assert len(updates) == 1
    with sessions.begin() as session:
        long_ago = first - timedelta(seconds=61)
        session.execute(update(ApiKey).where(ApiKey.id == key[0]).values(last_used_at=long_ago))
    app.state.principals.forget()  # as after a minute
    anonymous_client.get("/v1/info", headers=bearer(key[1]))
    assert last_used() >= first


SCOPED = [
    ("POST", "/v1/datasets?name=x", "datasets:write"),
    ("DELETE", "/v1/datasets/ds_x", "datasets:write"),
    ("POST", "/v1/probes", "audits:write"),
    ("DELETE", "/v1/probes/prb_x", "audits:write"),
    ("POST", "/v1/audits", "audits:write"),
    ("POST", "/v1/audits/aud_x/cancel", "audits:write"),
    ("GET", "/v1/audits/aud_x/findings", "findings:read"),
    ("GET", "/v1/audits/aud_x/findings/0", "findings:read"),
    ("POST", "/v1/models", "admin"),
    ("POST", "/v1/keys", "admin"),
    ("GET", "/v1/keys", "admin"),
    ("POST", "/v1/keys/key_x/rotate", "admin"),
    ("DELETE", "/v1/keys/key_x", "admin"),
]
OPEN_TO_ANY_KEY = [
    "/v1/info",
    "/openapi.json",
    "/v1/datasets",
    "/v1/datasets/ds_x",
    "/v1/datasets/ds_x/rows",
    "/v1/datasets/ds_x/statistics",
    "/v1/probes",
    "/v1/probes/prb_x",
    "/v1/models",
    "/v1/models/mdl_x",
    "/v1/audits",
    "/v1/audits/aud_x",
    "/v1/audits/aud_x/events",
    "/v1/audits/aud_x/summary",
]


def test_every_scope_opens_its_routes_and_no_other(make_client: Callable[..., TestClient]) -> None:
    scopes = ["datasets:write", "audits:write", "findings:read", "verdicts:write", "admin"]
    clients = {scope: make_client(scope) for scope in scopes}
    for method, path, needed in SCOPED:
        body = {"json": {}} if method == "POST" and "datasets" not in path else {}
        for scope, asker in clients.items():
            response = asker.request(method, path, **body)
            if scope in {needed, "admin"}:
                assert response.status_code in {200, 201, 202, 404, 422}, (scope, method, path, response.text)
            else:
                assert code(response) == (403, "scope_missing"), (scope, method, path)
    for path in OPEN_TO_ANY_KEY:
        for asker in clients.values():
            assert asker.get(path).status_code in {200, 404}


def sign_in(client: TestClient, sessions: Sessions, key_id: str) -> str:
    with sessions.begin() as session:
        token = create_sign_in_link(session, key_id=key_id, minutes=5)
    response = press_sign_in(client, f"/sign-in?token={token}")
    assert response.status_code == 303
    return str(response.cookies[COOKIE])


def test_a_sign_in_link_works_once(anonymous_client: TestClient, sessions: Sessions, key: tuple[str, str]) -> None:
    with sessions.begin() as session:
        token = create_sign_in_link(session, key_id=key[0], minutes=5)
    for _ in range(2):
        # Who only looks, as a preview of the link does, uses nothing up and is nobody.
        page = anonymous_client.get(f"/sign-in?token={token}")
        assert (page.status_code, "set-cookie" in page.headers) == (200, False)
        assert '<meta name="referrer" content="strict-origin">' in page.text
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        refused = anonymous_client.post(f"/sign-in?token={token}", headers=headers)
        assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
        assert "<code>cross_site</code>" in refused.text
    response = press_sign_in(anonymous_client, f"/sign-in?token={token}")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    parts = {part.strip().partition("=")[0].lower(): part for part in response.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite", "path", "max-age"} <= set(parts)
    assert parts["samesite"].strip() == "SameSite=lax"
    assert "secure" not in parts
    assert anonymous_client.get("/v1/info").status_code == 200  # the cookie jar has it
    anonymous_client.cookies.clear()
    for spent in (token, "nonsense"):
        refused = press_sign_in(anonymous_client, f"/sign-in?token={spent}")
        assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
        assert "<code>sign_in_link_invalid</code>" in refused.text
        assert spent not in refused.text
    for address in ("/sign-in?token=", "/sign-in?token=%22%3E%3Cscript%3E", f"/sign-in?token={'x' * 201}"):
        page = anonymous_client.get(address)
        assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert "script>" not in page.text.replace("</script>", "")


def test_over_https_the_cookie_is_secure(
    anonymous_client: TestClient, sessions: Sessions, key: tuple[str, str]
) -> None:
    with sessions.begin() as session:
        token = create_sign_in_link(session, key_id=key[0], minutes=5)
    response = press_sign_in(anonymous_client, f"https://127.0.0.1/sign-in?token={token}")
    assert "secure" in response.headers["set-cookie"].lower()


@pytest.mark.parametrize("spoil", ["expired", "revoked"])
def test_a_link_that_is_too_old_or_stands_on_a_dead_key(
    anonymous_client: TestClient, sessions: Sessions, key: tuple[str, str], spoil: str
) -> None:
    with sessions.begin() as session:
        token = create_sign_in_link(session, key_id=key[0], minutes=5)
    with sessions.begin() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        if spoil == "expired":
            session.execute(update(SignInLink).values(expires_at=past))
        else:
            session.execute(update(ApiKey).values(revoked_at=past))
    refused = press_sign_in(anonymous_client, f"/sign-in?token={token}")
    assert refused.status_code == 403
    assert "<code>sign_in_link_invalid</code>" in refused.text


def test_a_session_ends(anonymous_client: TestClient, sessions: Sessions, key: tuple[str, str]) -> None:
    sign_in(anonymous_client, sessions, key[0])
    with sessions.begin() as session:
        session.execute(update(BrowserSession).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert code(anonymous_client.get("/v1/info")) == (401, "session_ended")


def test_a_session_ends_with_its_key(anonymous_client: TestClient, sessions: Sessions, key: tuple[str, str]) -> None:
    sign_in(anonymous_client, sessions, key[0])
    with sessions.begin() as session:
        session.execute(update(ApiKey).where(ApiKey.id == key[0]).values(revoked_at=datetime.now(UTC)))
    assert code(anonymous_client.get("/v1/info")) == (401, "session_ended")


def test_signing_out(anonymous_client: TestClient, sessions: Sessions, key: tuple[str, str]) -> None:
    cookie = sign_in(anonymous_client, sessions, key[0])
    response = anonymous_client.post("/sign-out", headers={"Sec-Fetch-Site": "cross-site"})
    assert code(response) == (403, "cross_site")
    response = anonymous_client.post("/sign-out", headers={"Sec-Fetch-Site": "same-origin"})
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert COOKIE not in anonymous_client.cookies
    anonymous_client.cookies.set(COOKIE, cookie)
    assert code(anonymous_client.get("/v1/info")) == (401, "session_ended")
    anonymous_client.cookies.clear()
    assert anonymous_client.post("/sign-out").status_code == 303


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1"}, False),
        ({"Origin": "http://127.0.0.1"}, True),
        ({"Origin": "http://127.0.0.1:8000"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({}, False),
    ],
)
def test_only_our_own_pages_change_things_with_a_cookie(
    anonymous_client: TestClient,
    sessions: Sessions,
    key: tuple[str, str],
    headers: dict[str, str],
    allowed: bool,
) -> None:
    sign_in(anonymous_client, sessions, key[0])
    body = {"name": "x", "items": [{"prompt": "a", "unwanted": "b"}]}
    response = anonymous_client.post("/v1/probes", json=body, headers=headers)
    if allowed:
        assert response.status_code == 201
    else:
        assert code(response) == (403, "cross_site")
        assert anonymous_client.get("/v1/probes").json()["data"] == []
    # Reading is no change, and a key is no cookie: no page of another site can add one.
    assert anonymous_client.get("/v1/probes", headers=headers).status_code == 200
    anonymous_client.cookies.clear()
    response = anonymous_client.post("/v1/probes", json=body, headers={**headers, **bearer(key[1])})
    assert response.status_code == 201
