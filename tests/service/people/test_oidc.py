"""Signing in at an OpenID Connect issuer: a real one, and one that lies."""

import logging
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc.jwk import RSAKey
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.http.auth.authentication import COOKIE
from service.store.tables import AuditLogEntry, BrowserSession, Membership, User, Workspace
from tests.support.oidc_issuer import CLIENT_SECRET, ScriptedIssuer, consent, link_of
from tests.support.pages import OURS, Page

Sessions = sessionmaker[Session]
Serve = Callable[..., TestClient]
ADA = {"email": "Ada@Example.org", "email_verified": True, "name": "Ada Lovelace"}


def back(client: TestClient, location: str) -> Any:
    """Follow the issuer's redirect."""
    parts = urlsplit(location)
    return client.get(f"{parts.path}?{parts.query}")


def sign_in(client: TestClient, issuer: str, subject: str = "ada", **claims: Any) -> Any:
    """Everything that a person's browser does; the last answer."""
    link = link_of(Page(client.get("/sign-in").text))
    left = client.get(link)
    assert left.status_code == 303, left.text
    return back(client, consent(left.headers["location"], subject, ADA | claims, issuer=issuer))


def refusal(answer: Any) -> str:
    assert COOKIE not in answer.headers.get("set-cookie", "")
    return Page(answer.text).all("p", role="alert")[0][1]


def test_a_person_signs_in_by_the_issuer_and_is_who_it_says(
    serve: Serve, issuer: str, sessions: Sessions, workspace_id: str
) -> None:
    client = serve(issuer, default_role="viewer")
    answer = sign_in(client, issuer)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookies = answer.headers.get_list("set-cookie")
    (ours,) = [cookie for cookie in cookies if cookie.startswith(COOKIE)]
    for part in ("HttpOnly", "SameSite=lax", "Path=/"):
        assert part in ours
    assert client.get("/audits").status_code == 200
    with sessions() as session:
        user = session.scalars(select(User)).one()
        assert (user.issuer, user.subject, user.email, user.email_verified, user.name) == (
            issuer, "ada", "ada@example.org", True, "Ada Lovelace",
        )  # fmt: skip
        member = session.scalars(select(Membership)).one()
        assert (member.workspace_id, member.role, member.given_by) == (workspace_id, "viewer", "settings")
        browser = session.scalars(select(BrowserSession)).one()
        assert (browser.key_id, browser.user_id, browser.workspace_id) == (None, user.id, workspace_id)
        entries = session.scalars(select(AuditLogEntry).order_by(AuditLogEntry.id)).all()
        assert [(entry.action, entry.user_name, entry.key_id) for entry in entries] == [
            ("member.add", "Ada Lovelace", None),
            ("session.create", "Ada Lovelace", None),
        ]
    # Once more is the same person, and signing out ends the browser's session.
    sign_in(client, issuer)
    assert client.post("/sign-out", headers=OURS).status_code == 303
    assert client.get("/audits").status_code == 401
    with sessions() as session:
        assert len(session.scalars(select(User)).all()) == 1


def test_the_way_to_the_issuer_carries_state_nonce_and_challenge_and_nothing_secret(serve: Serve, issuer: str) -> None:
    client = serve(issuer)
    asked = []
    for _ in range(2):
        client.cookies.clear()
        left = client.get("/sign-in/oidc")
        address = left.headers["location"]
        assert address.startswith(f"{issuer}/oauth2/authorize?")
        fields = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert fields["redirect_uri"] == "http://127.0.0.1/sign-in/oidc/callback"
        assert (fields["response_type"], fields["code_challenge_method"]) == ("code", "S256")
        assert fields["scope"] == "openid email profile"
        secret = re.findall(r"finetooth_sign_in=([^;]+);", left.headers["set-cookie"])[0]
        assert secret not in address
        assert CLIENT_SECRET not in address
        for part in ("HttpOnly", "SameSite=lax", "Path=/sign-in"):
            assert part in left.headers["set-cookie"]
        asked.append({fields["state"], fields["nonce"], fields["code_challenge"]})
    assert len(asked[0] | asked[1]) == 6


def test_groups_give_roles_that_follow_them_with_each_sign_in(
    serve: Serve, issuer: str, sessions: Sessions, other_workspace_id: str
) -> None:
    client = serve(
        issuer,
        group_roles={
            "reviewers": "reviewer",
            "ml": {"other": "editor", "nowhere": "admin"},
            "boss": {"other": "admin"},
        },
    )

    def roles() -> dict[str, str]:
        with sessions() as session:
            query = select(Workspace.name, Membership.role).join(Membership)
            return {row.name: row.role for row in session.execute(query)}

    assert sign_in(client, issuer, groups=["reviewers", "unknown"]).status_code == 303
    assert roles() == {"default": "reviewer"}
    assert sign_in(client, issuer, groups=["ml", "boss"]).status_code == 303
    assert roles() == {"other": "admin"}
    # Nothing is left of the workspace that they were in before, not in other browsers either.
    with sessions() as session:
        assert set(session.scalars(select(BrowserSession.workspace_id))) == {other_workspace_id}
    answer = sign_in(client, issuer, groups="reviewers")
    assert answer.status_code == 403
    assert "you have no role here" in refusal(answer)
    assert roles() == {}
    assert client.get("/audits").status_code == 401


@pytest.mark.parametrize(("verified", "status"), [(True, 303), (False, 403)])
def test_the_first_admin_is_known_by_an_e_mail_that_the_issuer_vouches_for(
    serve: Serve, issuer: str, verified: bool, status: int
) -> None:
    client = serve(issuer, first_admin_email="ada@example.org")
    assert sign_in(client, issuer, email_verified=verified).status_code == status
    assert client.get("/v1/users").status_code == (200 if verified else 401)
    if not verified:
        return
    # There is one now: nobody else becomes it, whatever the issuer says of their e-mail.
    client.cookies.clear()
    assert sign_in(client, issuer, "somebody-else").status_code == 403


def test_who_was_added_by_e_mail_gets_the_role_with_the_first_sign_in(
    serve: Serve, issuer: str, client: TestClient, sessions: Sessions
) -> None:
    added = client.post("/v1/users", json={"email": "ADA@example.org", "role": "editor"}).json()
    assert (added["email"], added["last_sign_in_at"]) == ("ada@example.org", None)
    browser = serve(issuer)
    assert sign_in(browser, issuer, email_verified=False).status_code == 403
    assert sign_in(browser, issuer).status_code == 303
    with sessions() as session:
        user = session.scalars(select(User)).one()
        member = session.scalars(select(Membership)).one()
        assert (member.user_id, member.role, member.given_by) == (user.id, "editor", "admin")
        # Under the id that they have from now on; the invitation is gone.
        entries = session.scalars(select(AuditLogEntry).order_by(AuditLogEntry.id)).all()
        assert [entry.object_id for entry in entries if entry.action == "member.add"] == [
            f"{added['id']}/editor",
            f"{user.id}/editor",
        ]


def test_who_is_disabled_does_not_get_in(serve: Serve, issuer: str, client: TestClient) -> None:
    browser = serve(issuer, default_role="viewer")
    sign_in(browser, issuer)
    ((user),) = client.get("/v1/users").json()["data"]
    assert client.post(f"/v1/users/{user['id']}/disable").status_code == 200
    browser.app.state.principals.forget()  # type: ignore[attr-defined]  # as after a second
    assert browser.get("/audits").status_code == 401
    assert "disabled your account" in refusal(sign_in(browser, issuer))
    assert client.post(f"/v1/users/{user['id']}/enable").status_code == 200
    assert sign_in(browser, issuer).status_code == 303


@pytest.mark.parametrize("spoil", ["state", "cookie", "again"])
def test_a_code_is_taken_from_the_browser_that_asked_and_once(serve: Serve, issuer: str, spoil: str) -> None:
    client = serve(issuer, default_role="viewer")
    left = client.get("/sign-in/oidc").headers["location"]
    location = consent(left, "ada", ADA, issuer=issuer)
    if spoil == "state":
        location = re.sub(r"state=[^&]+", "state=wrong", location)
    elif spoil == "cookie":
        client.cookies.clear()
    else:
        assert back(client, location).status_code == 303
        client.cookies.clear()
    answer = back(client, location)
    assert answer.status_code == 403
    assert "begun in another browser" in refusal(answer)
    assert client.get("/audits").status_code == 401


def test_a_refusal_of_the_issuer_is_told_in_words_of_ours(serve: Serve, issuer: str) -> None:
    client = serve(issuer)
    for error, said in (("access_denied", "(access_denied)"), ("<script>alert(1)</script>", "(no code)")):
        state = parse_qs(urlsplit(client.get("/sign-in/oidc").headers["location"]).query)["state"][0]
        answer = client.get("/sign-in/oidc/callback", params={"error": error, "state": state})
        assert (answer.status_code, said in refusal(answer)) == (403, True)
        assert "<script>alert" not in answer.text


def test_nobody_is_sent_anywhere_but_to_the_issuer_and_back(serve: Serve, issuer: str) -> None:
    client = serve(issuer, default_role="viewer")
    for name in ("next", "redirect_uri", "return_to", "url"):
        left = client.get("/sign-in/oidc", params={name: "https://evil.example/"})
        assert "evil.example" not in left.headers["location"]
        location = consent(left.headers["location"], "ada", ADA, issuer=issuer)
        answer = back(client, f"{location}&{name}=https://evil.example/")
        assert answer.headers["location"] == "/"
    assert client.get("/sign-in/oidc", headers={"Host": "evil.example"}).status_code == 400


def test_without_an_issuer_there_is_no_way_to_one(serve: Serve) -> None:
    client = serve(None)
    assert "/sign-in/oidc" not in client.get("/sign-in").text
    for path in ("/sign-in/oidc", "/sign-in/oidc/callback?code=x&state=y"):
        assert client.get(path).status_code == 404


def test_behind_a_proxy_the_issuer_sends_people_back_to_the_proxys_path(serve: Serve, issuer: str) -> None:
    client = serve(issuer, root_path="/tools/finetooth", default_role="viewer")
    left = client.get("/tools/finetooth/sign-in/oidc")
    asked = parse_qs(urlsplit(left.headers["location"]).query)
    assert asked["redirect_uri"] == ["http://127.0.0.1/tools/finetooth/sign-in/oidc/callback"]
    assert "Path=/tools/finetooth/sign-in;" in left.headers["set-cookie"]
    answer = back(client, consent(left.headers["location"], "ada", ADA, issuer=issuer))
    assert (answer.status_code, answer.headers["location"]) == (303, "/tools/finetooth/")
    client.base_url = "https://127.0.0.1"
    left = client.get("/tools/finetooth/sign-in/oidc")
    assert parse_qs(urlsplit(left.headers["location"]).query)["redirect_uri"][0].startswith("https://127.0.0.1/tools/")
    assert "Secure" in left.headers["set-cookie"]


def ask_scripted(client: TestClient, scripted: ScriptedIssuer) -> Any:
    left = client.get("/sign-in/oidc")
    if left.status_code != 303:
        return left
    code, state = scripted.code_for(left.headers["location"])
    return client.get("/sign-in/oidc/callback", params={"code": code, "state": state})


def test_the_client_proves_itself_and_its_challenge(serve: Serve, scripted: ScriptedIssuer) -> None:
    client = serve(scripted.address, default_role="viewer")
    assert ask_scripted(client, scripted).status_code == 303
    assert scripted.refused == []
    # It asks again for keys that it does not know, and for them alone.
    scripted.key = RSAKey.generate_key(2048, {"kid": "second", "use": "sig", "alg": "RS256"})
    scripted.published.append(scripted.key)
    assert ask_scripted(client, scripted).status_code == 303


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"sub": ""},
        {"aud": ["finetooth", "another"], "azp": "another"},
        {"at_hash": "wrong"},
    ],
)
def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    serve: Serve, scripted: ScriptedIssuer, sessions: Sessions, claims: dict[str, Any]
) -> None:
    scripted.claims = claims
    answer = ask_scripted(serve(scripted.address, default_role="admin"), scripted)
    assert answer.status_code == 403
    assert "does not prove who you are" in refusal(answer)
    with sessions() as session:
        assert session.scalars(select(User)).all() == []


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "RS256", "kid": "first"}])
def test_an_id_token_that_the_issuer_has_not_signed_is_refused(
    serve: Serve, scripted: ScriptedIssuer, header: dict[str, Any]
) -> None:
    scripted.header = header
    scripted.key = RSAKey.generate_key(2048, {"kid": "evil", "use": "sig", "alg": "RS256"})
    answer = ask_scripted(serve(scripted.address, default_role="admin"), scripted)
    assert (answer.status_code, "does not prove" in refusal(answer)) == (403, True)


def test_what_the_issuer_tells_beside_the_token_counts_if_it_is_of_the_same_person(
    serve: Serve, scripted: ScriptedIssuer, sessions: Sessions
) -> None:
    client = serve(scripted.address, group_roles={"g": "editor"})
    scripted.user_info = {"sub": "s1", "email": "Eve@example.org", "email_verified": True, "groups": ["g"]}
    assert ask_scripted(client, scripted).status_code == 303
    with sessions() as session:
        assert session.scalars(select(User.email)).one() == "eve@example.org"
    scripted.user_info["sub"] = "somebody else"
    assert ask_scripted(client, scripted).status_code == 403
    # Nor does its word on an e-mail vouch for another one.
    scripted.claims = {"email": "boss@example.org"}
    scripted.user_info = {"sub": "s1", "email_verified": True, "groups": ["g"]}
    assert ask_scripted(client, scripted).status_code == 303
    with sessions() as session:
        assert session.execute(select(User.email, User.email_verified)).one() == ("boss@example.org", False)


def test_an_issuer_that_is_not_there_or_another_one_is_told_and_keeps_its_secret(
    serve: Serve, scripted: ScriptedIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert "does not answer" in refusal(serve("http://127.0.0.1:9").get("/sign-in/oidc"))
    scripted.metadata = {"issuer": "https://another.example"}
    answer = serve(scripted.address).get("/sign-in/oidc")
    assert (answer.status_code, "not set up correctly" in refusal(answer)) == (503, True)
    scripted.metadata = {}
    client = serve(scripted.address, oidc_client_id="wrong", default_role="viewer")
    answer = ask_scripted(client, scripted)
    assert (answer.status_code, scripted.refused) == (403, ["client"])
    client = serve(scripted.address, default_role="viewer")
    assert ask_scripted(client, scripted).status_code == 303
    # But for the log of the browser, which is the test's own.
    logged = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx2"))
    assert "failed: misconfigured" in logged
    for secret in (CLIENT_SECRET, "the-code", scripted.asked["state"]):
        assert secret not in logged
    assert CLIENT_SECRET not in repr(client.app.state.settings)  # type: ignore[attr-defined]
