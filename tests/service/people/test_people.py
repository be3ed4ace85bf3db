"""People of a workspace: their roles, who may change them, and what that means for their browsers at once."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.http.auth.authentication import COOKIE
from service.http.auth.principal_cache import KEPT_SECONDS
from service.keys.secrets import open_browser_session
from service.store.tables import BrowserSession, Membership, User
from service.store.verdict_tables import Verdict
from tests.support.builders import add_person
from tests.support.made_audits import make_published
from tests.support.pages import OURS, Page

Sessions = sessionmaker[Session]
Person = Callable[..., tuple[str, str]]
Browse = Callable[..., TestClient]


def test_what_a_person_says_stands_under_their_name(
    browse: Browse, client: TestClient, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit_id = make_published(session, workspace_id).id
    browser = browse("editor", name="<b>Ada</b> Lovelace")
    form = {"verdict": "confirmed", "note": "Bought."}
    assert browser.post(f"/audits/{audit_id}/findings/3/verdict", data=form, headers=OURS).status_code == 303
    with sessions() as session:
        user_id = session.scalars(select(User.id)).one()
        assert session.execute(select(Verdict.key_id, Verdict.user_id)).one() == (None, user_id)
    said = client.get(f"/v1/audits/{audit_id}/findings/3/verdict").json()
    assert (said["key_id"], said["user_id"]) == (None, user_id)
    (change,) = client.get(f"/v1/audits/{audit_id}/findings/3/verdict/history").json()["data"]
    assert (change["key_id"], change["user_id"]) == (None, user_id)
    page = browser.get(f"/audits/{audit_id}/findings/3")
    assert "confirmed by <b>Ada</b> Lovelace" in Page(page.text).text
    assert "<b>Ada</b>" not in page.text
    browser.post(f"/audits/{audit_id}/exports", data={"kind": "scores"}, headers=OURS)
    (export,) = client.get("/v1/exports").json()["data"]
    assert (export["key_id"], export["user_id"]) == (None, user_id)
    assert "by <b>Ada</b> Lovelace" in Page(browser.get(f"/audits/{audit_id}/exports").text).text
    (entry, *_) = client.get("/v1/audit-log", params={"user": user_id}).json()["data"]
    assert (entry["action"], entry["key_id"], entry["user_name"]) == ("export.create", None, "<b>Ada</b> Lovelace")
    log = client.get("/audit-log", params={"who": user_id})
    assert "<b>Ada</b> Lovelace" in Page(log.text).text
    assert "verdict.set" in Page(log.text).text
    assert client.get("/v1/audit-log", params={"user": "usr_none"}).json()["data"] == []


def test_an_audit_says_which_key_or_person_asked_for_it(client: TestClient, browse: Browse, audit_body: Any) -> None:
    by_key = client.post("/v1/audits", json=audit_body).json()
    assert by_key["key_id"].startswith("key_")
    assert by_key["user_id"] is None
    browser = browse("editor", name="Grace")
    by_person = browser.post("/v1/audits", json=audit_body, headers=OURS).json()
    assert (by_person["key_id"], by_person["user_id"][:4]) == (None, "usr_")
    assert "by Grace" in Page(browser.get(f"/audits/{by_person['id']}").text).text
    assert "by test" in Page(browser.get(f"/audits/{by_key['id']}").text).text


def test_an_idempotency_key_is_the_persons_own(browse: Browse, client: TestClient) -> None:
    body = {"name": "p", "items": [{"prompt": "Who?", "unwanted": "Them."}]}
    browser = browse("editor")
    headers = {**OURS, "Idempotency-Key": "once"}
    first, second = (browser.post("/v1/probes", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, first.json()) == (201, second.json())
    others = client.post("/v1/probes", json=body, headers={"Idempotency-Key": "once"})
    assert others.json()["id"] != first.json()["id"]


def test_a_lack_of_rights_is_told_to_people_in_their_words(browse: Browse) -> None:
    answer = browse("viewer").get("/audits/new")
    assert answer.status_code == 403
    assert "Your role in this workspace lacks the scope audits:write. Ask an admin" in Page(answer.text).text


def test_a_role_that_is_changed_or_taken_holds_for_browsers_within_a_second(
    client: TestClient, anonymous_client: TestClient, person: Person, sessions: Sessions
) -> None:
    user_id, cookie = person("viewer")
    anonymous_client.cookies.set(COOKIE, cookie)
    assert anonymous_client.get("/audits/new").status_code == 403
    changed = client.patch(f"/v1/users/{user_id}", json={"role": "editor"}).json()
    assert (changed["role"], changed["given_by"]) == ("editor", "admin")
    assert anonymous_client.get("/audits/new").status_code == 200
    assert client.delete(f"/v1/users/{user_id}").status_code == 204
    assert anonymous_client.get("/audits").status_code == 401
    with sessions() as session:
        assert session.scalars(select(BrowserSession)).all() == []
        assert session.get(User, user_id) is not None


def test_another_process_heeds_it_within_a_second(app: FastAPI, person: Person, sessions: Sessions) -> None:
    """What an admin does in one process is known in another one as soon as its cache ends."""
    _, cookie = person("viewer")
    with TestClient(app, base_url="http://127.0.0.1") as other:
        other.cookies.set(COOKIE, cookie)
        assert other.get("/v1/info").status_code == 200
        with sessions.begin() as session:  # not the application's own sessions
            session.query(Membership).delete()
        ended = time.monotonic()
        while other.get("/v1/info").status_code == 200:
            assert time.monotonic() - ended < KEPT_SECONDS + 5
            time.sleep(0.05)


def test_people_are_added_by_e_mail_once(client: TestClient) -> None:
    added = client.post("/v1/users", json={"email": " Ada@Example.ORG ", "role": "reviewer"})
    assert added.status_code == 201
    assert client.get(added.headers["location"]).json() == added.json()
    again = client.post("/v1/users", json={"email": "ada@example.org", "role": "admin"})
    assert (again.status_code, again.json()["code"]) == (409, "user_is_member")
    assert client.post("/v1/users", json={"email": "no address", "role": "viewer"}).status_code == 422
    assert client.post("/v1/users", json={"email": "a@b.c", "role": "owner"}).status_code == 422
    # Nobody but the invitation knows them: with it they are gone.
    assert client.delete(added.headers["location"]).status_code == 204
    assert client.get("/v1/users").json()["data"] == []


def test_nobody_changes_their_own_role(browse: Browse, sessions: Sessions) -> None:
    browser = browse("admin")
    with sessions() as session:
        own = session.scalars(select(User.id)).one()
    for request in (
        browser.patch(f"/v1/users/{own}", json={"role": "viewer"}, headers=OURS),
        browser.delete(f"/v1/users/{own}", headers=OURS),
        browser.post(f"/v1/users/{own}/disable", headers=OURS),
    ):
        assert (request.status_code, request.json()["code"]) == (409, "own_role")
    actions = {str(form.get("action")) for form, _ in Page(browser.get("/people").text).all("form")}
    assert not [action for action in actions if own in action]


def test_admins_of_another_workspace_see_and_shut_out_nobody_else(
    make_client: Callable[..., TestClient], other_workspace_id: str, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        here = add_person(session, workspace_id, "viewer", name="Here")
        there = add_person(session, other_workspace_id, "viewer", name="There")
    tenant = make_client("admin", workspace=other_workspace_id)
    assert [user["id"] for user in tenant.get("/v1/users").json()["data"]] == [there]
    assert "Here" not in tenant.get("/people").text
    assert tenant.get(f"/v1/users/{here}").json()["code"] == "user_not_found"
    answer = tenant.post(f"/v1/users/{there}/disable")
    assert (answer.status_code, answer.json()["code"]) == (403, "installation_admin_only")
    operator = make_client("admin")
    seen = {user["id"]: user["role"] for user in operator.get("/v1/users").json()["data"]}
    assert seen == {here: "viewer", there: None}
    assert operator.delete(f"/v1/users/{there}").status_code == 404
    assert operator.patch(f"/v1/users/{there}", json={"role": "reviewer"}).json()["role"] == "reviewer"


def test_a_person_works_in_one_of_their_workspaces_and_switches_on_the_page(
    anonymous_client: TestClient, person: Person, sessions: Sessions, other_workspace_id: str, workspace_id: str
) -> None:
    user_id, cookie = person("viewer")
    anonymous_client.cookies.set(COOKIE, cookie)
    form = {"workspace": other_workspace_id}
    assert anonymous_client.post("/account/workspace", data=form, headers=OURS).status_code == 404
    with sessions.begin() as session:
        fields = {"workspace_id": other_workspace_id, "user_id": user_id, "role": "editor", "given_by": "admin"}
        session.add(Membership(id="mbr_2", **fields))
    page = Page(anonymous_client.get("/account").text)
    assert [str(attrs["value"]) for attrs, _ in page.all("input")] == [other_workspace_id]
    assert anonymous_client.get("/v1/workspaces").json()["data"][0]["id"] == workspace_id
    assert anonymous_client.post("/account/workspace", data=form).status_code == 403
    answer = anonymous_client.post("/account/workspace", data=form, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert [one["id"] for one in anonymous_client.get("/v1/workspaces").json()["data"]] == [other_workspace_id]
    assert anonymous_client.get("/audits/new").status_code == 200
    assert "Ada · other" in Page(anonymous_client.get("/audits").text).text


def test_a_person_sees_and_ends_their_own_browsers(
    anonymous_client: TestClient, person: Person, sessions: Sessions, workspace_id: str
) -> None:
    user_id, cookie = person("viewer")
    person("viewer", name="Somebody Else")
    with sessions.begin() as session:
        open_browser_session(session, workspace_id=workspace_id, user_id=user_id, hours=1)
    anonymous_client.cookies.set(COOKIE, cookie)
    page = Page(anonymous_client.get("/sessions").text)
    assert page.text.count(user_id) == 2
    assert "Somebody Else" not in page.text
    assert anonymous_client.post("/sessions/end-others", headers=OURS).status_code == 303
    with sessions() as session:
        assert len(session.scalars(select(BrowserSession)).all()) == 2


def test_the_page_adds_changes_and_removes_people(
    browse: Browse, sessions: Sessions, client: TestClient, workspace_id: str
) -> None:
    browser = browse("admin", name="Boss")
    assert browser.post("/people", data={"email": "<i>@x.org", "role": "viewer"}, headers=OURS).status_code == 303
    assert browser.post("/people", data={"email": "no", "role": "viewer"}, headers=OURS).status_code == 422
    shown = browser.get("/people")
    assert "<i>@x.org" not in shown.text
    assert "<i>@x.org" in Page(shown.text).text
    with sessions() as session:
        user_id = session.scalars(select(User.id).where(User.email == "<i>@x.org")).one()
    actions = {str(form["action"]) for form, _ in Page(shown.text).all("form")}
    assert {f"/people/{user_id}/{act}" for act in ("role", "remove", "disable")} <= actions
    for act, form in (("role", {"role": "editor"}), ("disable", {}), ("enable", {}), ("remove", {})):
        answer = browser.post(f"/people/{user_id}/{act}", data=form, headers=OURS)
        assert (answer.status_code, answer.headers["location"]) == (303, "/people")
    assert browser.post(f"/people/{user_id}/remove", headers=OURS).status_code == 404


@pytest.mark.parametrize("role", ["viewer", "reviewer", "editor"])
def test_only_admins_see_people(browse: Browse, role: str) -> None:
    browser = browse(role)
    assert browser.get("/people").status_code == 403
    assert "/people" not in browser.get("/audits").text
