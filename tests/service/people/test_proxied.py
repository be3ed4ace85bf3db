"""Signing in by the word of a trusted proxy, at a real server: only its address is believed."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.settings import Settings
from service.store.tables import AuditLogEntry, Membership, User
from tests.support.live_api import live_api
from tests.support.pages import OURS, Page

Sessions = sessionmaker[Session]
ADA = {"X-Forwarded-User": "ada", "X-Forwarded-Email": "ada@example.org", "X-Forwarded-Groups": "staff, reviewers"}
Open = Callable[..., httpx.Client]


@pytest.fixture
def browse(settings: Settings) -> Iterator[Open]:
    """Starts a server that trusts proxies of these networks; a browser in front of which one says what headers say."""
    with ExitStack() as stack:

        def go(*networks: str, headers: Any = None, **changed: Any) -> httpx.Client:
            trusted = {"sign_in_proxies": tuple(map(ip_network, networks))}
            api = stack.enter_context(live_api(settings.model_copy(update=trusted | changed)))
            return stack.enter_context(httpx.Client(base_url=api.url, headers=headers or {}, timeout=60))

        yield go


def test_whom_the_proxy_names_signs_in_with_a_button(browse: Open, sessions: Sessions) -> None:
    browser = browse("127.0.0.0/8", headers=ADA, group_roles={"reviewers": "reviewer"})
    page = Page(browser.get("/audits").text)
    assert "Continue as ada" in page.text
    assert "/sign-in/proxy" in {form["action"] for form, _ in page.all("form")}
    for headers in ({}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert browser.post("/sign-in/proxy", headers=headers).status_code == 403
    answer = browser.post("/sign-in/proxy", headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert browser.get("/audits").status_code == 200
    with sessions() as session:
        user = session.scalars(select(User)).one()
        assert (user.issuer, user.subject, user.email, user.email_verified) == (
            "trusted-proxy", "ada", "ada@example.org", True,
        )  # fmt: skip
        assert session.scalars(select(Membership.role)).one() == "reviewer"
        actions = session.scalars(select(AuditLogEntry.action).order_by(AuditLogEntry.id)).all()
        assert actions == ["member.add", "session.create"]


def test_a_session_is_good_only_while_the_proxy_names_the_same_person(browse: Open) -> None:
    browser = browse("127.0.0.1", headers=ADA, default_role="viewer")
    assert browser.post("/sign-in/proxy", headers=OURS).status_code == 303
    assert browser.get("/v1/info").status_code == 200
    for other in ("eve", ""):
        answer = browser.get("/v1/info", headers={"X-Forwarded-User": other})
        assert (answer.status_code, answer.json()["code"]) == (401, "session_ended")
    assert browser.get("/v1/info").status_code == 200


@pytest.mark.parametrize("networks", [(), ("10.0.0.0/8", "::1/128")])
def test_from_anywhere_else_the_headers_are_nothing(
    browse: Open, sessions: Sessions, networks: tuple[str, ...]
) -> None:
    browser = browse(*networks, headers={**ADA, "X-Forwarded-For": "10.0.0.1"}, default_role="admin")
    assert "Continue as" not in browser.get("/sign-in").text
    answer = browser.post("/sign-in/proxy", headers=OURS)
    assert answer.status_code == 403
    assert "No proxy that this server trusts has signed you in" in Page(answer.text).text
    assert browser.get("/v1/info").status_code == 401
    with sessions() as session:
        assert session.scalars(select(User)).all() == []


def test_a_header_that_comes_twice_or_names_nobody_signs_in_nobody(browse: Open) -> None:
    browser = browse("127.0.0.1", default_role="admin")
    for sent in ([], [("X-Forwarded-User", "")], [("X-Forwarded-User", "ada"), ("X-Forwarded-User", "eve")]):
        # Made by itself: a client's own headers would swallow one that comes twice.
        request = httpx.Request("POST", browser.base_url.join("/sign-in/proxy"), headers=[*OURS.items(), *sent])
        assert browser.send(request).status_code == 403, sent


def test_the_first_admin_and_other_names_of_headers(browse: Open) -> None:
    headers = {"Remote-User": "ada", "Remote-Email": "Ada@Example.org"}
    names = {"proxy_user_header": "Remote-User", "proxy_email_header": "Remote-Email"}
    browser = browse("127.0.0.1", headers=headers, first_admin_email="ada@example.org", **names)
    assert browser.post("/sign-in/proxy", headers=OURS).status_code == 303
    assert json.loads(browser.get("/v1/users").text)["data"][0]["role"] == "admin"
