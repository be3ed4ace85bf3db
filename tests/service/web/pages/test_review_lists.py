"""The list as reviewers arrange it: columns, saved views, who said what, and verdicts on many that are undone."""

import re

import pytest
from fastapi.testclient import TestClient

from service.findings.list_address import COLUMNS
from service.keys.secrets import create_key
from tests.support.made_audits import HOSTILE
from tests.support.pages import OURS, Page, Sessions, SignIn, form_fields


@pytest.fixture
def colleague(sessions: Sessions, workspace_id: str) -> dict[str, str]:
    """Headers of another reviewer, named Ada."""
    with sessions.begin() as session:
        _, secret = create_key(session, workspace_id=workspace_id, name="Ada", scopes=["verdicts:write"])
    return {"Authorization": f"Bearer {secret}"}


def heads(page: Page) -> list[str]:
    return [" ".join(text.split()) for _, text in page.all("th", scope="col")]


def judged_rows(page: Page) -> list[str]:
    return [str(attrs["data-row"]) for attrs, _ in page.all("tr") if "data-row" in attrs]


def first_rows(client: TestClient, audit: str, count: int) -> list[str]:
    found = client.get(f"/v1/audits/{audit}/findings?limit={count}").json()["data"]
    return [str(finding["row"]) for finding in found]


def say(client: TestClient, audit: str, row: str, verdict: str, **headers: str) -> None:
    url = f"/v1/audits/{audit}/findings/{row}/verdict"
    assert client.put(url, json={"verdict": verdict}, headers={**OURS, **headers}).status_code == 200


# ---------------------------------------------------------------- columns


def test_the_list_shows_the_columns_that_the_address_names(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    url = f"/audits/{published}/findings"
    assert heads(Page(client.get(url).text)) == [
        "Rank", "Sample", "mu with 95 % interval", "Z", "q", "Flag", "Verdict",
    ]  # fmt: skip
    # As checkboxes send them, in any order; and as links have them.
    for query in ("columns=side&columns=z&columns=tokens_left_out", "columns=tokens_left_out,side,z"):
        page = Page(client.get(f"{url}?flagged=true&{query}").text)
        assert heads(page) == ["Sample", "Z", "Side", "cut"]
        checked = [attrs["value"] for attrs, _ in page.all("input", name="columns") if "checked" in attrs]
        assert checked == ["z", "side", "tokens_left_out"]
        findings = client.get(f"/v1/audits/{published}/findings?flagged=true").json()["data"]
        shown = [float(str(attrs["value"])) for attrs, _ in page.all("data")]
        assert shown == [value for one in findings for value in (one["z"], one["tokens_left_out"])]
        links = [attrs["href"] for attrs, _ in page.all("a") if "/findings/" in str(attrs.get("href"))]
        assert links
        assert all(str(link).endswith("?flagged=true&columns=z,side,tokens_left_out") for link in links)
        (following,) = [attrs for attrs, text in page.all("a") if text.startswith("All ")]
        assert "columns=z,side,tokens_left_out" in str(following["href"])


def test_every_column_can_be_shown_and_none_is_the_usual_ones(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    url = f"/audits/{published}/findings"
    every = Page(client.get(f"{url}?columns={','.join(COLUMNS)}").text)
    assert len(heads(every)) == len(COLUMNS) + 1
    assert judged_rows(every) == judged_rows(Page(client.get(url).text))
    assert heads(Page(client.get(f"{url}?columns=").text)) == heads(Page(client.get(url).text))
    refused = client.get(f"{url}?columns=rank,colour")
    assert refused.status_code == 422
    assert "No column is called 'colour'" in Page(refused.text).text


# ---------------------------------------------------------------- saved views


def test_a_list_is_saved_by_name_and_opened_on_any_audit(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    base = f"/audits/{published}/findings"
    shown = f"{base}?flagged=true&sort=-mu&columns=rank,mu"
    (form,) = [attrs for attrs, _ in Page(client.get(shown).text).all("form", action="/views")]
    assert form["method"] == "post"
    fields = form_fields(Page(client.get(shown).text))
    saved = client.post("/views", data={**fields, "name": "Strong <b>ones</b>"}, headers=OURS)
    assert (saved.status_code, saved.headers["location"]) == (303, shown)
    page = Page(client.get(base).text)
    (link,) = [attrs for attrs, text in page.all("a") if text == "Strong <b>ones</b>"]
    assert link["href"] == shown
    assert link["title"] == "saved by browser"
    (view,) = client.get("/v1/views").json()["data"]
    data = {"name": "Strong", "back": base}
    assert client.post(f"/views/{view['id']}/rename", data=data, headers=OURS).headers["location"] == base
    (current,) = [attrs for attrs, text in Page(client.get(shown).text).all("a") if text == "Strong"]
    assert current["aria-current"] == "page"
    taken = client.post("/views", data={**fields, "name": "Strong"}, headers=OURS)
    assert taken.status_code == 409
    assert "There is a saved view named Strong already" in Page(taken.text).text
    nameless = client.post("/views", data={**fields, "name": " "}, headers=OURS)
    assert nameless.status_code == 422
    assert client.post(f"/views/{view['id']}/delete", data={"back": base}, headers=OURS).status_code == 303
    assert client.get("/v1/views").json()["data"] == []


def test_who_may_only_read_opens_views_and_changes_none(sign_in: SignIn, published: str) -> None:
    sign_in().post("/views", data={"name": "v", "query": "flagged=true"}, headers=OURS)
    viewer = sign_in("findings:read")
    page = Page(viewer.get(f"/audits/{published}/findings").text)
    assert [text for _, text in page.all("a")].count("v") == 1
    assert not [attrs for attrs, _ in page.all("form") if str(attrs.get("action")).startswith("/views")]
    assert viewer.post("/views", data={"name": "w", "query": ""}, headers=OURS).status_code == 403


@pytest.mark.parametrize("back", ["https://evil.example/audits/x/findings", "//evil.example/x/findings", "/sign-out"])
def test_a_form_of_views_goes_back_to_findings_alone(sign_in: SignIn, published: str, back: str) -> None:
    saved = sign_in().post("/views", data={"name": "v", "query": "", "back": back}, headers=OURS)
    assert (saved.status_code, saved.headers["location"]) == (303, "/audits")


def test_a_page_of_another_site_saves_no_view(sign_in: SignIn) -> None:
    client = sign_in()
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {}):
        assert client.post("/views", data={"name": "v", "query": ""}, headers=headers).status_code == 403
    assert client.get("/v1/views").json()["data"] == []


# ---------------------------------------------------------------- disagreement


def test_a_dispute_is_seen_counted_found_and_settled(
    sign_in: SignIn, published: str, colleague: dict[str, str]
) -> None:
    client = sign_in()
    base = f"/audits/{published}/findings"
    first, second = first_rows(client, published, 2)
    for row in (first, second):
        say(client, published, row, "confirmed")
    say(client, published, first, "rejected", **colleague)
    say(client, published, second, "confirmed", **colleague)
    page = Page(client.get(f"{base}?flagged=true").text)
    assert "2 of 21 flagged reviewed, 1 disputed" in page.text
    assert "Precision of the first 10: 100 % of 1 judged" in page.text
    outcomes = [" ".join(text.split()) for _, text in page.all("small", class_="said outcome")]
    assert outcomes[:3] == ["disputed: others say rejected", "others agree", ""]
    pressed = [attrs["data-choice"] for attrs, _ in page.all("button", aria_pressed="true")]
    assert pressed == ["confirmed", "confirmed"], "what the reader has said"
    assert judged_rows(Page(client.get(f"{base}?verdict=disputed").text)) == [first]
    (ada,) = [attrs["value"] for attrs, text in page.all("option") if text == "Ada"]
    assert judged_rows(Page(client.get(f"{base}?reviewer={ada}").text)) == [first, second]
    one = Page(client.get(f"{base}/{first}").text)
    (listed,) = one.all("ul", id="opinions")
    assert " ".join(listed[1].split()) == "confirmed by browser rejected by Ada"

    third = sign_in("findings:read", "verdicts:write")
    page = Page(third.get(f"{base}?flagged=true").text)
    assert not page.all("button", aria_pressed="true")
    form = {"verdict": "rejected", "back": f"{base}?flagged=true"}
    assert third.post(f"{base}/{first}/verdict", data=form, headers=OURS).status_code == 303
    page = Page(third.get(f"{base}?flagged=true").text)
    assert "2 of 21 flagged reviewed, 0 disputed" in page.text
    outcomes = [" ".join(text.split()) for _, text in page.all("small", class_="said outcome")]
    assert outcomes[:2] == ["settled: rejected", "confirmed by others"]
    assert "rejected by browser, which settles it" in " ".join(Page(third.get(f"{base}/{first}").text).text.split())


def test_notes_of_others_are_shown_as_text(sign_in: SignIn, published: str, colleague: dict[str, str]) -> None:
    client = sign_in()
    url = f"/audits/{published}/findings/3"
    body = {"verdict": "confirmed", "note": HOSTILE[0] + "<img src=x onerror=alert(1)>"}
    assert client.put(f"/v1{url}/verdict", json=body, headers={**OURS, **colleague}).status_code == 200
    html = client.get(url).text
    assert "<img src=x" not in html
    assert "onerror=alert(1)" in Page(html).text


# ---------------------------------------------------------------- verdicts on many, undone


def test_verdicts_on_many_are_undone_from_the_list_and_from_their_page(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    base = f"/audits/{published}/findings"
    for said in ("confirmed", "rejected"):
        fields = form_fields(Page(client.get(f"/audits/{published}/verdicts?flagged=true&said={said}").text))
        done = client.post(f"/audits/{published}/verdicts", data=fields, headers=OURS)
    (since,) = first_rows(client, published, 1)
    say(client, published, since, "unsure")
    page = Page(client.get(done.headers["location"]).text)
    assert "21 verdicts changed" in page.text
    (form,) = [attrs for attrs, _ in page.all("form") if str(attrs.get("action")).endswith("/undo")]
    undone = client.post(
        str(form["action"]), data={"back": done.headers["location"]}, headers=OURS, follow_redirects=True
    )
    assert str(undone.url).endswith(done.headers["location"])
    page = Page(undone.text)
    assert "20 samples as before again. 1 sample changed since, and left as it is." in page.text
    assert not [attrs for attrs, _ in page.all("form") if str(attrs.get("action")).endswith("/undo")]
    confirmed = client.get(f"/v1/audits/{published}/findings?verdict=confirmed&limit=50").json()["data"]
    assert len(confirmed) == 20

    bulks = Page(client.get(f"/audits/{published}/bulks").text)
    assert re.search("rejected flagged true 21 browser undone .*: 20 samples as before", bulks.text)
    (form,) = [attrs for attrs, _ in bulks.all("form") if str(attrs.get("action")).endswith("/undo")]
    back = {"back": f"/audits/{published}/bulks"}
    answer = client.post(str(form["action"]), data=back, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/audits/{published}/bulks")
    assert "1 of 21 flagged reviewed" in Page(client.get(base).text).text
    again = client.post(str(form["action"]), data=back, headers=OURS)
    assert again.status_code == 409
    assert "undone before" in Page(again.text).text


def test_who_may_not_undo_sees_no_button(sign_in: SignIn, published: str) -> None:
    client = sign_in("findings:read", "verdicts:write")
    fields = form_fields(Page(client.get(f"/audits/{published}/verdicts?flagged=true").text))
    client.post(f"/audits/{published}/verdicts", data=fields, headers=OURS)
    (bulk,) = client.get(f"/v1/audits/{published}/verdicts/bulks").json()["data"]
    other = sign_in("findings:read", "verdicts:write")
    page = Page(other.get(f"/audits/{published}/bulks").text)
    assert "21" in page.text
    assert not [attrs for attrs, _ in page.all("form") if str(attrs.get("action")).endswith("/undo")]
    assert (
        other.post(f"/audits/{published}/bulks/{bulk['id']}/undo", data={"back": ""}, headers=OURS).status_code == 403
    )


def test_a_bulk_says_how_many_become_disputed(sign_in: SignIn, published: str, colleague: dict[str, str]) -> None:
    client = sign_in()
    for row in first_rows(client, published, 3):
        say(client, published, row, "rejected", **colleague)
    page = Page(client.get(f"/audits/{published}/verdicts?flagged=true&said=confirmed").text)
    assert "21 would become confirmed" in page.text
    assert "3 of them will be disputed" in page.text
