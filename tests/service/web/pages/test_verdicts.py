"""The review on pages: forms that judge one finding or a whole list, and say who said what."""

import re

import pytest
from fastapi.testclient import TestClient

from service.keys.secrets import create_key
from tests.support.made_audits import HOSTILE
from tests.support.pages import OURS, Page, Sessions, SignIn


def say(client: TestClient, audit: str, row: str, verdict: str, **fields: str) -> int:
    form = {"verdict": verdict, **fields}
    return client.post(f"/audits/{audit}/findings/{row}/verdict", data=form, headers=OURS).status_code


def verdict_of(client: TestClient, audit: str, row: str) -> tuple[str | None, str | None]:
    found = client.get(f"/v1/audits/{audit}/findings/{row}/verdict").json()
    return found["verdict"], found["note"]


def first_rows(client: TestClient, audit: str, count: int) -> list[str]:
    found = client.get(f"/v1/audits/{audit}/findings?limit={count}").json()["data"]
    return [str(finding["row"]) for finding in found]


def test_a_form_sets_and_withdraws_a_verdict_and_goes_back(sign_in: SignIn, published: str) -> None:
    client = sign_in("findings:read", "verdicts:write")
    (row,) = first_rows(client, published, 1)
    listed = f"/audits/{published}/findings?flagged=true"
    answer = client.post(
        f"/audits/{published}/findings/{row}/verdict",
        data={"verdict": "confirmed", "note": "Names the brand.", "back": listed},
        headers=OURS,
    )
    assert (answer.status_code, answer.headers["location"]) == (303, listed)
    assert verdict_of(client, published, row) == ("confirmed", "Names the brand.")
    page = Page(client.get(listed).text)
    assert "1 of 21 flagged reviewed" in page.text
    pressed = [attrs["data-choice"] for attrs, _ in page.all("button", aria_pressed="true")]
    assert pressed == ["confirmed"]
    # The button that is pressed takes the verdict back.
    assert [attrs["value"] for attrs, _ in page.all("button", aria_pressed="true")] == ["withdrawn"]
    assert say(client, published, row, "withdrawn") == 303
    assert verdict_of(client, published, row) == (None, None)
    assert "0 of 21 flagged reviewed" in Page(client.get(listed).text).text


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example/audits", "/sign-out", "javascript:alert(1)", "\\\\evil.example"]
)
def test_a_form_goes_back_to_findings_of_its_audit_alone(sign_in: SignIn, published: str, back: str) -> None:
    client = sign_in()
    data = {"verdict": "unsure", "back": back}
    answer = client.post(f"/audits/{published}/findings/3/verdict", data=data, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/audits/{published}/findings/3")


def test_who_may_only_read_sees_verdicts_and_no_form(sign_in: SignIn, published: str) -> None:
    editor = sign_in()
    (row,) = first_rows(editor, published, 1)
    say(editor, published, row, "rejected", note="Fair.")
    viewer = sign_in("findings:read")
    for url in (f"/audits/{published}/findings", f"/audits/{published}/findings/{row}"):
        page = Page(viewer.get(url).text)
        assert page.all("span", class_="said is-rejected")
        assert not [attrs for attrs, _ in page.all("form") if "judge" in str(attrs.get("class"))]
        assert "review.js" not in str(page.elements)
    assert say(viewer, published, row, "confirmed") == 403
    assert viewer.get(f"/audits/{published}/verdicts?flagged=true").status_code == 403
    form = {"said": "confirmed", "token": "x"}
    assert viewer.post(f"/audits/{published}/verdicts", data=form, headers=OURS).status_code == 403
    assert verdict_of(viewer, published, row) == ("rejected", "Fair.")


def test_a_page_of_another_site_judges_nothing(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {}):
        for path in ("findings/3/verdict", "verdicts"):
            answer = client.post(f"/audits/{published}/{path}", data={"verdict": "confirmed"}, headers=headers)
            assert answer.status_code == 403
    assert verdict_of(client, published, "3") == (None, None)


def test_another_workspaces_audit_is_not_there(sign_in: SignIn, published: str, other_workspace_id: str) -> None:
    client = sign_in(workspace=other_workspace_id)
    assert say(client, published, "3", "confirmed") == 404
    assert client.get(f"/audits/{published}/verdicts").status_code == 404
    assert client.post(f"/audits/{published}/verdicts", data={"said": "unsure"}, headers=OURS).status_code == 404


def test_a_list_is_judged_as_it_was_shown_or_not_at_all(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    (first,) = first_rows(client, published, 1)
    say(client, published, first, "confirmed")
    shown = Page(client.get(f"/audits/{published}/verdicts?flagged=true&said=confirmed").text)
    assert "20 would become confirmed" in shown.text
    assert verdict_of(client, published, first_rows(client, published, 2)[1]) == (None, None), "nothing yet"
    form = {str(attrs["name"]): str(attrs["value"]) for attrs, _ in shown.all("input")}
    assert {"flagged", "said", "token"} <= set(form)

    done = client.post(f"/audits/{published}/verdicts", data=form, headers=OURS)
    (kept,) = client.get(f"/v1/audits/{published}/verdicts/bulks").json()["data"]
    assert (done.status_code, done.headers["location"]) == (
        303,
        f"/audits/{published}/findings?flagged=true&bulk={kept['id']}",
    )
    page = Page(client.get(done.headers["location"]).text)
    assert "20 verdicts changed" in page.text
    assert "21 of 21 flagged reviewed" in page.text
    assert "100 % of those judged are confirmed" in page.text

    # The same form again: what it showed is no longer so.
    again = client.post(f"/audits/{published}/verdicts", data=form, headers=OURS)
    assert again.status_code == 409
    assert "Nothing was done; go back" in Page(again.text).text

    withdrawn = Page(client.get(f"/audits/{published}/verdicts?flagged=true&said=withdrawn").text)
    form = {str(attrs["name"]): str(attrs["value"]) for attrs, _ in withdrawn.all("input")}
    assert client.post(f"/audits/{published}/verdicts", data=form, headers=OURS).status_code == 303
    assert "0 of 21 flagged reviewed" in Page(client.get(f"/audits/{published}/findings").text).text


def test_the_filters_and_orders_of_the_form_are_those_of_the_api(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    for row in first_rows(client, published, 3):
        say(client, published, row, "confirmed")
    say(client, published, "5", "rejected", note="Fair.")
    for query in (
        "flagged=true&verdict=none",
        "verdict=confirmed",
        "max_q=0.01&sort=row",
        "min_z=2&sort=-mu",
        "min_mu=0.5&side=toward",
        "sort=-reviewed_at&verdict=rejected",
        "text=row+7",
    ):
        api = client.get(f"/v1/audits/{published}/findings?limit=50&{query}").json()["data"]
        empty = "&group=&cluster=&text=" if "text" not in query else "&group="
        page = Page(client.get(f"/audits/{published}/findings?limit=50&{query}{empty}").text)
        rows = [attrs["data-row"] for attrs, _ in page.all("tr") if "data-row" in attrs]
        assert rows == [str(finding["row"]) for finding in api], query


@pytest.mark.parametrize("query", ["max_q=much", "sort=q;drop", "verdict=maybe", "cluster=-1", "side=left"])
def test_what_cannot_be_asked_is_said(sign_in: SignIn, published: str, query: str) -> None:
    answer = sign_in().get(f"/audits/{published}/findings?{query}")
    assert answer.status_code == 422
    assert re.search("cannot be asked for|can be sorted by", Page(answer.text).text)


def test_a_finding_keeps_its_place_in_the_list_that_it_was_opened_from(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    query = "flagged=true&verdict=none&sort=-mu"
    rows = [str(f["row"]) for f in client.get(f"/v1/audits/{published}/findings?{query}&limit=50").json()["data"]]
    at, seen = rows[0], []
    while True:
        seen.append(at)
        page = Page(client.get(f"/audits/{published}/findings/{at}?{query}").text)
        # Judged, it has left the list, and its place is still known.
        say(client, published, at, "unsure")
        following = page.all("a", rel="next")
        if not following:
            break
        link = str(following[0][0]["href"])
        assert link.endswith("?flagged=true&verdict=none&sort=-mu")
        at = link.split("?")[0].rpartition("/")[2]
    assert seen == rows


def test_the_history_names_the_key_and_shows_hostile_notes_as_text(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    for note in HOSTILE:
        say(client, published, "3", "confirmed", note=note)
    html = client.get(f"/audits/{published}/findings/3").text
    page = Page(html)
    assert page.text.count("confirmed by browser") == len(HOSTILE)
    for piece in ("<script>document", "<img src=x", "<svg/onload", "<style>body"):
        assert piece not in html
        assert piece not in client.get(f"/audits/{published}/findings?verdict=confirmed").text


def test_a_form_is_read_under_a_bound(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    url = f"/audits/{published}/findings/3/verdict"
    assert client.post(url, data={"verdict": "confirmed", "note": "x" * 10_001}, headers=OURS).status_code == 422
    assert client.post(url, data={"verdict": "confirmed", "note": "x" * 2**20}, headers=OURS).status_code == 413
    assert client.post(url, json={"verdict": "confirmed"}, headers=OURS).status_code == 422
    assert client.post(url, data={}, headers=OURS).status_code == 422
    many = "&".join(f"a{number}=1" for number in range(2_000))
    headers = OURS | {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post(url, content=many, headers=headers).status_code == 422
    assert client.post(url, content=b"verdict=%ff%fe", headers=headers).status_code == 422
    assert verdict_of(client, published, "3") == (None, None)


def test_keys_are_named_only_in_their_workspace(
    sign_in: SignIn, published: str, sessions: Sessions, workspace_id: str
) -> None:
    client = sign_in()
    say(client, published, "3", "unsure")
    with sessions.begin() as session:
        _, secret = create_key(session, workspace_id=workspace_id, name="<b>nightly</b>", scopes=["verdicts:write"])
    put = client.put(
        f"/v1/audits/{published}/findings/3/verdict",
        json={"verdict": "confirmed"},
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert put.status_code == 200
    assert "confirmed by <b>nightly</b>" in Page(client.get(f"/audits/{published}/findings/3").text).text
