"""Who asks is known for a second: what that may not change for anybody whose rights end."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import event, func, select, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.app import create_app
from service.http.auth.authentication import COOKIE
from service.http.auth.key_format import SHOWN_PREFIX, digest, new_key
from service.http.auth.principal_cache import KEPT_SECONDS, Principals
from service.keys.secrets import create_key, create_sign_in_link
from service.principal import Principal
from service.settings import Settings
from service.store.ids import new_id
from service.store.tables import ApiKey
from tests.support.pages import press_sign_in

Sessions = sessionmaker[Session]
BOUND_SECONDS = 2.0
"""What docs/operating.md promises of other processes."""


@pytest.fixture
def elsewhere(settings: Settings) -> Iterator[TestClient]:
    """Another process of the API, on the same database."""
    with TestClient(create_app(settings), base_url="http://127.0.0.1", follow_redirects=False) as client:
        yield client


@pytest.fixture
def key(sessions: Sessions, workspace_id: str) -> tuple[str, str]:
    """Id and text of a key."""
    with sessions.begin() as session:
        row, secret = create_key(session, workspace_id=workspace_id, name="k", scopes=["admin"])
    return row.id, secret


def ask(client: TestClient, secret: str, method: str = "GET", path: str = "/v1/info") -> tuple[int, str | None]:
    """Status and code."""
    response = client.request(method, path, headers={"Authorization": f"Bearer {secret}"})
    return response.status_code, response.json().get("code") if response.status_code >= 400 else None


def seconds_until_refused(ask_once: Callable[[], int]) -> float:
    """How long from now until the last request that was not refused was sent."""
    began = time.monotonic()
    last = 0.0
    while True:
        sent = time.monotonic() - began
        if ask_once() == 401:
            return last
        last = sent
        assert last < 30


@pytest.fixture
def statements(app: FastAPI) -> list[str]:
    asked: list[str] = []
    event.listen(app.state.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    return asked


def test_reads_in_a_row_look_the_key_up_once(
    anonymous_client: TestClient, key: tuple[str, str], statements: list[str]
) -> None:
    ask(anonymous_client, key[1])
    statements.clear()
    began = time.monotonic()
    for _ in range(3):
        assert ask(anonymous_client, key[1]) == (200, None)
    if time.monotonic() - began < KEPT_SECONDS / 2:  # on a machine that stands still they have run out
        assert statements == []
    time.sleep(KEPT_SECONDS)
    ask(anonymous_client, key[1])
    assert len(statements) == 1


@pytest.mark.parametrize("end", ["revoked", "rotated"])
def test_a_key_that_ends_is_refused_here_at_once_and_elsewhere_within_the_bound(
    client: TestClient, anonymous_client: TestClient, elsewhere: TestClient, key: tuple[str, str], end: str
) -> None:
    assert ask(anonymous_client, key[1]) == ask(elsewhere, key[1]) == (200, None)
    if end == "revoked":
        assert client.delete(f"/v1/keys/{key[0]}").status_code == 204
    else:
        assert client.post(f"/v1/keys/{key[0]}/rotate").status_code == 200
    assert ask(anonymous_client, key[1]) == (401, "key_invalid")
    assert seconds_until_refused(lambda: ask(elsewhere, key[1])[0]) < BOUND_SECONDS
    assert ask(elsewhere, key[1]) == (401, "key_invalid")


def test_what_changes_something_is_refused_everywhere_at_once(
    client: TestClient, elsewhere: TestClient, key: tuple[str, str]
) -> None:
    assert ask(elsewhere, key[1]) == (200, None)
    assert client.delete(f"/v1/keys/{key[0]}").status_code == 204
    assert ask(elsewhere, key[1], "POST", "/v1/keys") == (401, "key_invalid")


def test_a_key_expires_to_the_moment(
    elsewhere: TestClient, sessions: Sessions, workspace_id: str, key: tuple[str, str]
) -> None:
    """By the database's clock: a request that is sent after the end is refused, whatever was known a moment ago."""
    with sessions.begin() as session:
        ends = func.clock_timestamp() + timedelta(seconds=0.7)
        session.execute(update(ApiKey).where(ApiKey.id == key[0]).values(expires_at=ends))
    answers = _ask_until_past(elsewhere, sessions, key, ApiKey.expires_at)
    assert answers[-1] == (True, 401, "key_expired")
    assert (False, 200, None) in answers
    assert not [answer for answer in answers if answer[0] and answer[1] != 401], answers


def test_an_overlap_ends_to_the_moment(
    client: TestClient, elsewhere: TestClient, sessions: Sessions, key: tuple[str, str]
) -> None:
    rotated = client.post(f"/v1/keys/{key[0]}/rotate", json={"overlap_seconds": 1})
    assert rotated.status_code == 200, rotated.text
    answers = _ask_until_past(elsewhere, sessions, key, ApiKey.previous_expires_at)
    assert (False, 200, None) in answers
    assert not [answer for answer in answers if answer[0] and answer[1] != 401], answers
    assert ask(elsewhere, rotated.json()["secret"]) == (200, None)


def _ask_until_past(
    client: TestClient, sessions: Sessions, key: tuple[str, str], end: Any
) -> list[tuple[bool, int, str | None]]:
    """(whether the end had passed before the request was sent, status, code) of requests until after it."""
    answers: list[tuple[bool, int, str | None]] = []
    while sum(past for past, _, _ in answers) < 3:
        with sessions() as session:
            past = session.scalars(select(end <= func.clock_timestamp()).where(ApiKey.id == key[0])).one()
        answers.append((past, *ask(client, key[1])))
    return answers


def test_a_browser_that_signs_out_is_out(
    anonymous_client: TestClient, elsewhere: TestClient, sessions: Sessions, key: tuple[str, str]
) -> None:
    with sessions.begin() as session:
        token = create_sign_in_link(session, key_id=key[0], minutes=5)
    cookie = press_sign_in(anonymous_client, f"/sign-in?token={token}").cookies[COOKIE]
    for client in (anonymous_client, elsewhere):
        client.cookies.set(COOKIE, cookie)
        assert client.get("/v1/info").status_code == 200
    assert anonymous_client.post("/sign-out", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303
    for client, patience in ((anonymous_client, 0.0), (elsewhere, BOUND_SECONDS)):
        client.cookies.clear()
        client.cookies.set(COOKIE, cookie)
        assert seconds_until_refused(lambda client=client: client.get("/v1/info").status_code) <= patience


def test_refusals_are_not_remembered(anonymous_client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    secret = new_key()
    assert ask(anonymous_client, secret) == (401, "key_invalid")
    with sessions.begin() as session:
        session.add(
            ApiKey(
                id=new_id("key"), workspace_id=workspace_id, name="late", prefix=secret[:SHOWN_PREFIX],
                secret_sha256=digest(secret), scopes=[],
            )
        )  # fmt: skip
    assert ask(anonymous_client, secret) == (200, None)


PRINCIPAL = Principal("ws", "key", frozenset())


def test_what_was_asked_before_rights_changed_is_not_kept() -> None:
    principals = Principals()
    question = principals.ask()
    principals.forget()  # while the database answers
    principals.keep(b"k", PRINCIPAL, question, None)
    assert principals.find(b"k") is None
    principals.keep(b"k", PRINCIPAL, principals.ask(), None)
    assert principals.find(b"k") == PRINCIPAL


@pytest.mark.parametrize("ends_in", [0.0, -1.0])
def test_nothing_is_known_beyond_its_end(ends_in: float) -> None:
    principals = Principals()
    principals.keep(b"k", PRINCIPAL, principals.ask(), ends_in)
    assert principals.find(b"k") is None


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.http.auth.principal_cache.MOST_KEPT", 3)
    principals = Principals()
    for number in range(10):
        principals.keep(b"%d" % number, PRINCIPAL, principals.ask(), None)
    assert [number for number in range(10) if principals.find(b"%d" % number)] == [7, 8, 9]
