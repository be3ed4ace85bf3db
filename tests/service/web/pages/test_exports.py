"""The page of an audit's files: what it counts is what is exported, and its form asks for exactly that."""

import pytest
from sqlalchemy import func, select, update

from service.audits.queries import find_published
from service.exports.preview import preview
from service.lifecycle.exports import Filter
from service.principal import Principal
from service.store.tables import Score, ScoreList
from tests.support.pages import OURS, Page, Sessions, SignIn
from worker.supervisor.export.selection import selected


@pytest.fixture
def judged(sign_in: SignIn, published: str, sessions: Sessions) -> str:
    """The audit with flagged and other samples confirmed, rejected and unsure, one of them trusted (without q)."""
    client = sign_in()
    listed = client.get(f"/v1/audits/{published}/findings?limit=40").json()["data"]
    said = ["confirmed", "rejected", "unsure", None, "rejected"] * 8
    for finding, verdict in zip(listed, said, strict=True):
        if verdict:
            url = f"/v1/audits/{published}/findings/{finding['row']}/verdict"
            assert client.put(url, json={"verdict": verdict}, headers=OURS).status_code == 200
    with sessions.begin() as session:
        lists = select(ScoreList.id).where(ScoreList.audit_id == published)
        trusted = listed[30]["row"]
        assert said[30] == "confirmed"
        session.execute(
            update(Score).where(Score.list_id.in_(lists), Score.row == trusted).values(q=None, p=None, flagged=False)
        )
    return published


@pytest.mark.parametrize("max_q", [None, 1e-9, 0.05, 0.9])
@pytest.mark.parametrize("filter", ["flagged", "confirmed", "not_rejected"])
def test_the_counts_are_those_of_the_export(
    judged: str, sessions: Sessions, workspace_id: str, filter: Filter, max_q: float | None
) -> None:
    with sessions() as session:
        principal = Principal(workspace_id, "key", frozenset({"admin"}))
        audit = find_published(session, principal, judged)
        now = session.scalars(select(func.now())).one()
        exported = session.scalars(
            select(func.count())
            .select_from(Score)
            .where(Score.list_id == audit.headline, selected(filter, max_q, audit.id, now))
        ).one()
        assert preview(session, audit, max_q).selected(filter) == exported
        assert preview(session, audit, max_q).rows == 120


def test_the_form_asks_for_what_was_counted(sign_in: SignIn, judged: str) -> None:
    client = sign_in("findings:read")
    page = Page(client.get(f"/audits/{judged}/exports").text)
    assert "The file would leave out" in page.text
    assert "There is no file yet" in page.text
    page = Page(client.get(f"/audits/{judged}/exports?kind=flagged&filter=flagged&format=csv&max_q=0.2").text)
    form = {str(a["name"]): str(a["value"]) for a, _ in page.all("input") if a.get("type") == "hidden"}
    assert form == {"kind": "flagged", "format": "csv", "filter": "flagged", "max_q": "0.2"}
    answer = client.post(f"/audits/{judged}/exports", data=form, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/audits/{judged}/exports")
    made = client.get("/v1/exports").json()["data"]
    assert [(m["kind"], m["format"], m["filter"], m["max_q"]) for m in made] == [("flagged", "csv", "flagged", 0.2)]
    page = Page(client.get(f"/audits/{judged}/exports").text)
    assert "flagged.csv" in page.text
    assert page.all("div", id="files")[0][0]["data-live"], "until it is made the page follows it"


@pytest.mark.parametrize(
    ("form", "kept"),
    [
        ({"kind": "scores", "format": "parquet", "filter": "flagged", "max_q": "0.1"}, ("scores", None, None)),
        ({"kind": "cleaned", "filter": "confirmed", "max_q": "0.1"}, ("cleaned", "confirmed", None)),
        ({"kind": "cleaned", "filter": "not_rejected", "max_q": ""}, ("cleaned", "not_rejected", None)),
    ],
)
def test_fields_of_other_kinds_are_left_out(
    sign_in: SignIn, published: str, form: dict[str, str], kept: tuple[str | None, ...]
) -> None:
    client = sign_in()
    assert client.post(f"/audits/{published}/exports", data=form, headers=OURS).status_code == 303
    (made,) = client.get("/v1/exports").json()["data"]
    assert (made["kind"], made["filter"], made["max_q"]) == kept


@pytest.mark.parametrize("form", [{"kind": "all"}, {"format": "csv"}, {"kind": "cleaned", "max_q": "2"}])
def test_what_cannot_be_made_is_said(sign_in: SignIn, published: str, form: dict[str, str]) -> None:
    client = sign_in()
    answer = client.post(f"/audits/{published}/exports", data=form, headers=OURS)
    assert answer.status_code == 422
    assert "No such file can be made" in Page(answer.text).text
    assert client.get("/v1/exports").json()["data"] == []


def test_who_may_not_read_findings_gets_no_files(sign_in: SignIn, published: str, other_workspace_id: str) -> None:
    client = sign_in("audits:write")
    assert client.get(f"/audits/{published}/exports").status_code == 403
    assert client.post(f"/audits/{published}/exports", data={"kind": "cleaned"}, headers=OURS).status_code == 403
    stranger = sign_in(workspace=other_workspace_id)
    assert stranger.get(f"/audits/{published}/exports").status_code == 404
    assert stranger.post(f"/audits/{published}/exports", data={"kind": "cleaned"}, headers=OURS).status_code == 404
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert sign_in().post(f"/audits/{published}/exports", data={"kind": "cleaned"}, headers=cross).status_code == 403
