"""The page of usage: numbers beside limits for everybody, and forms that set limits for admins of the installation."""

import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session, sessionmaker

from service.settings import Settings
from service.store.tables import Workspace
from tests.support.builders import add_audit
from tests.support.pages import OURS, Page, SignIn

Sessions = sessionmaker[Session]


def test_an_admin_of_the_installation_sets_limits(
    sign_in: SignIn, sessions: Sessions, workspace_id: str, other_workspace_id: str
) -> None:
    with sessions.begin() as session:
        add_audit(session, other_workspace_id)
    client = sign_in()
    page = Page(client.get("/usage").text)
    (row,) = [text for attrs, text in page.all("tr") if attrs.get("data-workspace") == other_workspace_id]
    assert row.split()[:8] == ["other", other_workspace_id, "1", "of", "200", "0", "no", "limit"]
    assert "1.0 kB of 1.1 TB 1.0 kB of uploads, 0 bytes of recordings, 0 bytes of exports" in " ".join(row.split())
    assert [attrs["action"] for attrs, _ in page.all("form") if str(attrs["action"]).endswith("/limits")] == [
        f"/usage/{other_workspace_id}/limits",
        f"/usage/{workspace_id}/limits",
    ]
    typed = {"max_queued_audits": " 5 ", "max_running_audits": "2", "max_bytes": ""}
    answer = client.post(f"/usage/{other_workspace_id}/limits", data=typed, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/usage")
    with sessions() as session:
        found = session.get_one(Workspace, other_workspace_id)
        assert (found.max_queued_audits, found.max_running_audits, found.max_bytes) == (5, 2, None)
    page = Page(client.get("/usage").text)
    (row,) = [text for attrs, text in page.all("tr") if attrs.get("data-workspace") == other_workspace_id]
    assert row.split()[2:8] == ["1", "of", "5", "0", "of", "2"]


@pytest.mark.parametrize("typed", ["0", "many", "1.5"])
def test_what_is_no_limit_is_refused_in_words(sign_in: SignIn, workspace_id: str, typed: str) -> None:
    answer = sign_in().post(f"/usage/{workspace_id}/limits", data={"max_queued_audits": typed}, headers=OURS)
    assert answer.status_code == 422
    assert "A limit is a whole number from 1 on." in Page(answer.text).text


def test_a_tenant_sees_itself_alone_and_sets_nothing(
    sign_in: SignIn, workspace_id: str, other_workspace_id: str
) -> None:
    client = sign_in(workspace=other_workspace_id)
    text = client.get("/usage").text
    assert other_workspace_id in text
    assert workspace_id not in text
    assert not [attrs for attrs, _ in Page(text).all("form") if str(attrs["action"]).startswith("/usage")]
    data = {"max_queued_audits": "100000"}
    assert client.post(f"/usage/{other_workspace_id}/limits", data=data, headers=OURS).status_code == 403


def test_what_is_deleted_by_age_is_said(sign_in: SignIn, settings: Settings) -> None:
    client = sign_in()
    assert "deleted by age" not in client.get("/usage").text
    assert isinstance(client.app, FastAPI)
    client.app.state.settings = settings.model_copy(update={"export_days": 30, "audit_days": 1})
    page = Page(client.get("/usage").text)
    assert [text for _, text in page.all("li")] == [
        "Exports: 30 days after their end.",
        "Audits: 1 day after their end, with findings, verdicts and exports.",
    ]


def test_an_admin_of_the_installation_deletes_a_workspace_by_typing_its_name(
    sign_in: SignIn, sessions: Sessions, workspace_id: str, other_workspace_id: str
) -> None:
    client = sign_in()

    def actions() -> list[str]:
        forms = Page(client.get("/usage").text).all("form")
        return [str(attrs["action"]) for attrs, _ in forms if str(attrs["action"]).startswith("/usage")]

    action = f"/usage/{other_workspace_id}/delete"
    assert [one for one in actions() if one.endswith("delete")] == [action], "and not one's own"
    refused = client.post(action, data={"name": "default"}, headers=OURS)
    assert refused.status_code == 422
    assert "This is not the workspace's name. Nothing was deleted." in Page(refused.text).text
    with sessions() as session:
        assert session.get_one(Workspace, other_workspace_id).deletion_requested_at is None
    answer = client.post(action, data={"name": "other"}, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/usage")
    page = Page(client.get("/usage").text)
    (row,) = [text for attrs, text in page.all("tr") if attrs.get("data-workspace") == other_workspace_id]
    assert "being deleted, what runs is stopped: 0 of 1 gone" in " ".join(row.split())
    assert actions() == [f"/usage/{workspace_id}/limits"]
