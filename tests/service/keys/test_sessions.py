"""Signed-in browsers: who sees them, and how they are signed out."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.http.auth.authentication import COOKIE
from service.http.auth.key_format import digest
from service.keys.secrets import create_key, open_browser_session
from service.store.tables import BrowserSession
from tests.support.pages import OURS, Page

Sessions = sessionmaker[Session]
Browser = Callable[..., tuple[str, str]]


@pytest.fixture
def make_key(sessions: Sessions, workspace_id: str) -> Callable[..., str]:
    def make(*scopes: Any, name: str = "k", workspace: str = workspace_id) -> str:
        with sessions.begin() as session:
            return create_key(session, workspace_id=workspace, name=name, scopes=scopes or ("admin",))[0].id

    return make


@pytest.fixture
def open_browser(sessions: Sessions, workspace_id: str) -> Browser:
    """Opens a session of a key; its id and cookie."""

    def open(key_id: str, workspace: str = workspace_id) -> tuple[str, str]:
        with sessions.begin() as session:
            cookie = open_browser_session(session, workspace_id=workspace, key_id=key_id, hours=1)
            found = session.scalars(select(BrowserSession.id).where(BrowserSession.token_sha256 == digest(cookie)))
            return found.one(), cookie

    return open


def use(client: TestClient, cookie: str) -> TestClient:
    client.cookies.set(COOKIE, cookie)
    return client


def test_admins_list_the_workspaces_browsers_without_their_cookies(
    client: TestClient, make_key: Callable[..., str], open_browser: Browser, other_workspace_id: str, sessions: Sessions
) -> None:
    key = make_key("findings:read", name="Reviewer")
    first, cookie = open_browser(key)
    second, _ = open_browser(key)
    expired, _ = open_browser(key)
    foreign, _ = open_browser(make_key(workspace=other_workspace_id), other_workspace_id)
    with sessions.begin() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(update(BrowserSession).where(BrowserSession.id == expired).values(expires_at=past))
    answer = client.get("/v1/sessions")
    assert [browser["id"] for browser in answer.json()["data"]] == [second, first]
    shown = answer.json()["data"][0]
    assert (shown["object"], shown["key_id"], shown["key_name"]) == ("session", key, "Reviewer")
    assert shown["last_used_at"] is None
    assert cookie not in answer.text
    assert digest(cookie).hex() not in answer.text
    assert client.delete(f"/v1/sessions/{foreign}").json()["code"] == "session_not_found"
    page = client.get("/v1/sessions?limit=1").json()
    assert [browser["id"] for browser in client.get(f"/v1/sessions?after={page['next_after']}").json()["data"]] == [
        first
    ]


def test_a_browser_that_an_admin_signs_out_is_out_at_once_and_its_key_is_not(
    client: TestClient, anonymous_client: TestClient, make_key: Callable[..., str], open_browser: Browser
) -> None:
    key = make_key()
    session_id, cookie = open_browser(key)
    use(anonymous_client, cookie)
    assert anonymous_client.get("/v1/info").status_code == 200
    assert client.get("/v1/sessions").json()["data"][0]["last_used_at"] is not None
    assert client.delete(f"/v1/sessions/{session_id}").status_code == 204
    assert anonymous_client.get("/v1/info").json()["code"] == "session_ended"
    assert client.delete(f"/v1/sessions/{session_id}").status_code == 404
    assert client.get(f"/v1/keys/{key}").json()["revoked_at"] is None


def test_the_page_marks_this_browser_and_shows_others_of_the_own_key_alone(
    anonymous_client: TestClient, make_key: Callable[..., str], open_browser: Browser
) -> None:
    mine = make_key("findings:read", name="<b>mine</b>")
    own, cookie = open_browser(mine)
    other, other_cookie = open_browser(mine)
    admins, admins_cookie = open_browser(make_key(name="boss"))
    use(anonymous_client, cookie)
    answer = anonymous_client.get("/sessions")
    page = Page(answer.text)
    assert "boss" not in page.text
    assert "<b>mine" not in answer.text
    buttons = {form["action"] for form, _ in page.all("form")}
    assert buttons == {"/sign-out", f"/sessions/{other}/end", "/sessions/end-others"}
    assert page.text.count("This browser") == 1
    # Others' sessions are not to be ended, nor one's own by a page of another site.
    assert anonymous_client.post(f"/sessions/{admins}/end", headers=OURS).status_code == 404
    assert anonymous_client.post(f"/sessions/{other}/end").status_code == 403
    answer = anonymous_client.post(f"/sessions/{other}/end", headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sessions")
    assert use(anonymous_client, other_cookie).get("/sessions").status_code == 401
    # An admin sees everybody's.
    page = Page(use(anonymous_client, admins_cookie).get("/sessions").text)
    assert f"/sessions/{own}/end" in {form["action"] for form, _ in page.all("form")}


@pytest.mark.parametrize("admin", [False, True])
def test_all_others_are_signed_out_but_those_that_are_not_ones_own(
    anonymous_client: TestClient,
    make_key: Callable[..., str],
    open_browser: Browser,
    other_workspace_id: str,
    sessions: Sessions,
    admin: bool,
) -> None:
    mine = make_key("admin" if admin else "findings:read")
    own, cookie = open_browser(mine)
    open_browser(mine)
    colleague, _ = open_browser(make_key())
    foreign, _ = open_browser(make_key(workspace=other_workspace_id), other_workspace_id)
    use(anonymous_client, cookie)
    assert anonymous_client.post("/sessions/end-others", headers=OURS).status_code == 303
    with sessions() as session:
        left = set(session.scalars(select(BrowserSession.id)))
    assert left == ({own, foreign} if admin else {own, colleague, foreign})
    assert anonymous_client.get("/sessions").status_code == 200
