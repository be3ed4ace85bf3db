"""Signing in with an API key typed into the page."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, select, update

from service.http.auth.authentication import COOKIE
from service.http.auth.key_format import new_key
from service.keys.secrets import create_key, revoke_key, rotate_key
from service.store.tables import ApiKey, BrowserSession
from service.web.forms import read_bounded_form
from service.web.pages.sign_in import KEY_FORM_BYTES
from tests.support.pages import OURS, Page, Sessions


def typed(client: TestClient, key: str) -> Any:
    return client.post("/sign-in", data={"key": key}, headers=OURS)


@pytest.fixture
def key(sessions: Sessions, workspace_id: str) -> tuple[str, str]:
    """Id and text of a key that may read findings."""
    with sessions.begin() as session:
        row, secret = create_key(session, workspace_id=workspace_id, name="reader", scopes=["findings:read"])
    return row.id, secret


@pytest.mark.parametrize(("path", "status"), [("/sign-in", 200), ("/audits", 401)])
def test_who_is_signed_out_is_shown_one_field_for_a_key(app_client: TestClient, path: str, status: int) -> None:
    answer = app_client.get(path)
    assert answer.status_code == status
    page = Page(answer.text)
    ((form, _),) = page.all("form")
    assert (form["method"], form["action"]) == ("post", "/sign-in")
    ((field, _),) = page.all("input")
    assert (field["type"], field["name"], "value" in field) == ("password", "key", False)
    assert page.all("label", for_="key")


def test_a_typed_key_signs_in_with_its_own_scopes_and_ends_with_it(
    app_client: TestClient, sessions: Sessions, key: tuple[str, str]
) -> None:
    answer = typed(app_client, f"  {key[1]}\n")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    for part in ("HttpOnly", "SameSite=lax", "Path=/"):
        assert part in answer.headers["set-cookie"]
    assert key[1] not in answer.headers["set-cookie"]
    assert app_client.get("/audits").status_code == 200
    assert app_client.get("/v1/keys").json()["code"] == "scope_missing"
    with sessions.begin() as session:
        revoke_key(session, session.get_one(ApiKey, key[0]))
    app_client.app.state.principals.forget()  # type: ignore[attr-defined]  # as after a second
    assert app_client.get("/audits").status_code == 401


def _nothing(_: ApiKey) -> None:
    pass


def _expire(key: ApiKey) -> None:
    key.expires_at = datetime.now(UTC) - timedelta(seconds=1)


def _revoke(key: ApiKey) -> None:
    key.revoked_at = datetime.now(UTC)


@pytest.mark.parametrize(
    ("spoil", "mistake", "said"),
    [
        (_nothing, lambda key: key[:-1], "This is not a whole key: it is cut or mistyped."),
        (_nothing, lambda _: "", "This is not a whole key: it is cut or mistyped."),
        (_nothing, lambda _: "\0\u202e<script>", "This is not a whole key: it is cut or mistyped."),
        (_nothing, lambda _: new_key(), "No key has this text, or it was replaced by a new one."),
        (_expire, lambda key: key, "This key has expired."),
        (_revoke, lambda key: key, "This key has been revoked."),
    ],
)
def test_a_key_that_does_not_work_is_told_why_and_kept_nowhere(
    app_client: TestClient,
    sessions: Sessions,
    key: tuple[str, str],
    caplog: pytest.LogCaptureFixture,
    spoil: Any,
    mistake: Any,
    said: str,
) -> None:
    with sessions.begin() as session:
        spoil(session.get_one(ApiKey, key[0]))
    caplog.set_level(logging.DEBUG)
    tried = mistake(key[1])
    answer = typed(app_client, tried)
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    page = Page(answer.text)
    assert page.all("p", role="alert")[0][1].startswith(said)
    ((field, _),) = page.all("input")
    assert "value" not in field
    if tried:
        assert tried not in answer.text
        assert tried not in caplog.text
    with sessions() as session:
        assert session.scalars(select(BrowserSession)).all() == []


def test_any_key_costs_one_question_and_what_is_no_key_none(app_client: TestClient, key: tuple[str, str]) -> None:
    app_client.get("/healthz")
    asked: list[str] = []
    event.listen(app_client.app.state.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))  # type: ignore[attr-defined]
    typed(app_client, key[1][:-1])
    assert asked == []
    typed(app_client, new_key())
    assert len(asked) == 1


def test_a_replaced_key_signs_in_until_its_overlap_ends_and_no_longer(
    app_client: TestClient, sessions: Sessions, key: tuple[str, str]
) -> None:
    with sessions.begin() as session:
        rotate_key(session, session.get_one(ApiKey, key[0]), overlap_seconds=600)
    assert typed(app_client, key[1]).status_code == 303
    with sessions.begin() as session:
        ends_at = session.scalars(select(BrowserSession.expires_at)).one()
        assert ends_at == session.get_one(ApiKey, key[0]).previous_expires_at
        session.execute(update(ApiKey).values(previous_expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    app_client.cookies.clear()
    assert typed(app_client, key[1]).status_code == 403


def test_no_page_of_another_site_signs_a_visitor_in(app_client: TestClient, key: tuple[str, str]) -> None:
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        answer = app_client.post("/sign-in", data={"key": key[1]}, headers=headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
        assert "<code>cross_site</code>" in answer.text
    assert COOKIE not in app_client.cookies


def test_a_strangers_form_is_small_and_a_form(app_client: TestClient) -> None:
    answer = typed(app_client, "x" * KEY_FORM_BYTES)
    assert answer.status_code == 413
    assert "<code>body_too_large</code>" in answer.text
    answer = app_client.post("/sign-in", json={"key": "x"}, headers=OURS)
    assert answer.status_code == 422
    assert typed(app_client, "x" * 200).status_code == 403


def test_a_form_that_does_not_end_is_let_go() -> None:
    from starlette.requests import Request

    from service.http.problems.problem import Problem

    async def receive() -> Any:
        await asyncio.sleep(3600)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/x-www-form-urlencoded")]}
    with pytest.raises(Problem) as raised:
        asyncio.run(read_bounded_form(Request(scope, receive), most_bytes=10, seconds=0.01))
    assert (raised.value.status, raised.value.code) == (408, "body_stalled")
    assert raised.value.headers["Connection"] == "close"
