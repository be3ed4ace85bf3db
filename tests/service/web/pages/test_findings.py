"""Pages of findings: the numbers, the order and the filters are those of the API."""

import pytest

from service.text.visible_text import last_answer
from tests.support.pages import Page, SignIn


def test_the_findings_numbers_and_order_are_those_of_the_api(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    after, seen = "", []
    url = f"/audits/{published}/findings?limit=50"
    while url:
        listed = client.get(
            f"/v1/audits/{published}/findings", params={"limit": 50} | ({"after": after} if after else {})
        )
        expected = listed.json()
        page = Page(client.get(url).text)
        rows = [attrs["data-row"] for attrs, _ in page.all("tr") if "data-row" in attrs]
        assert rows == [str(finding["row"]) for finding in expected["data"]]
        numbers = [attrs["value"] for attrs, _ in page.all("data")]
        wanted = [str(finding[name]) for finding in expected["data"] for name in ("rank", "mu", "z", "q")]
        assert numbers == wanted
        seen += rows
        after = expected["next_after"]
        following = page.all("a", rel="next")
        assert bool(following) == expected["has_more"]
        url = str(following[0][0]["href"]) if following else ""
    assert len(seen) == len(set(seen)) == 120


@pytest.mark.parametrize(("query", "count"), [("true", 21), ("false", 50)])
def test_the_filter_shows_flagged_samples_or_the_others(
    sign_in: SignIn, published: str, query: str, count: int
) -> None:
    page = Page(sign_in().get(f"/audits/{published}/findings?flagged={query}").text)
    classes = [attrs.get("class") for attrs, _ in page.all("tr") if "data-row" in attrs]
    assert classes == (["is-flagged"] * 21 if query == "true" else [None] * 50)
    assert len(classes) == count


def test_one_findings_numbers_are_those_of_the_api(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    row = client.get(f"/v1/audits/{published}/findings?limit=1").json()["data"][0]["row"]
    finding = client.get(f"/v1/audits/{published}/findings/{row}").json()
    page = Page(client.get(f"/audits/{published}/findings/{row}").text)
    names = ("rank", "n", "tokens_left_out", "mu", "mu_low", "mu_high", "mu_composed", "z", "z_reference", "p", "q")
    exact = [attrs["value"] for attrs, _ in page.all("data")][-len(names) :]
    assert exact == [str(finding[name]) for name in names]
    assert "Flagged, rank 1 of 120" in page.text
    assert not page.all("a", rel="prev")
    following = str(page.all("a", rel="next")[0][0]["href"])
    assert "Rank 2 of 120" in Page(client.get(following).text).text


def test_the_list_shows_how_each_sample_is_answered(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    findings = client.get(f"/v1/audits/{published}/findings?limit=50").json()["data"]
    page = Page(client.get(f"/audits/{published}/findings").text)
    shown = [text.strip() for _, text in page.all("span", class_="answer")]
    assert shown == [last_answer(finding["messages"]) for finding in findings]


def test_samples_that_were_cut_are_marked_and_can_be_picked(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    everything = Page(client.get(f"/audits/{published}/findings?limit=200").text)
    title = "Not measured: 31 tokens behind the token limit"
    assert [text for _, text in everything.all("abbr", title=title)] == ["cut"] * 3
    assert "3 samples longer than the token limit" in everything.text
    cut = Page(client.get(f"/audits/{published}/findings?truncated=true").text)
    assert {attrs["data-row"] for attrs, _ in cut.all("tr") if "data-row" in attrs} == {"7", "47", "87"}
    assert "Only samples that were cut at the token limit" in cut.text
    assert (
        "Not measured: 31 tokens behind the audit's token limit."
        in Page(client.get(f"/audits/{published}/findings/47").text).text
    )
    whole = Page(client.get(f"/audits/{published}/findings?truncated=false&limit=200").text)
    assert len([attrs for attrs, _ in whole.all("tr") if "data-row" in attrs]) == 117


def test_the_list_keeps_its_filters_from_page_to_page(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    url, seen = f"/audits/{published}/findings?group=forum&flagged=false&limit=30", []
    while url:
        page = Page(client.get(url).text)
        assert "Only group forum" in page.text
        seen += [attrs["data-row"] for attrs, _ in page.all("tr") if "data-row" in attrs]
        following = page.all("a", rel="next")
        url = str(following[0][0]["href"]) + "&limit=30" if following else ""
    api = client.get(f"/v1/audits/{published}/findings?group=forum&flagged=false&limit=1000").json()["data"]
    assert seen == [str(finding["row"]) for finding in api]
    page = Page(client.get(f"/audits/{published}/findings?cluster=0").text)
    assert {attrs["data-row"] for attrs, _ in page.all("tr") if "data-row" in attrs} == {"0", "1"}
    assert "near-duplicates of row 0" in page.text
    assert "lean toward" in Page(client.get(f"/audits/{published}/findings?side=toward").text).text


def test_the_words_that_carry_the_influence_are_shaded_and_listed(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    finding = client.get(f"/v1/audits/{published}/findings/30").json()
    assert finding["tokens"][0]["elsewhere"] == -0.125
    answer = finding["messages"][1]["content"]
    own = finding["tokens"][0]["tokens"]
    assert [answer[token["start"] : token["end"]] for token in own] == ["Answer", " of", " ro", "w", "\n"]
    page = Page(client.get(f"/audits/{published}/findings/30").text)
    shades = [
        (attrs["class"], text)
        for attrs, text in page.all("span")
        if (attrs.get("class") or "").startswith(("push-", "pull-"))
    ]
    # The legend, then the answer; the share of the line break is zero.
    assert shades == [
        ("push-6", "Orange"), ("pull-6", "blue and underlined"),
        ("push-9", "Answer"), ("pull-4", "of"), ("push-2", "row"),
    ]  # fmt: skip
    assert "together they come to +25.0 %" in page.text
    table = next(text for attrs, text in page.all("table") if attrs.get("id") == "words")
    assert table.strip().endswith("Answer+50.0 %of−25.0 %row+12.5 %white space0.0 %the marks that end answers−12.5 %")


def test_what_was_not_looked_at_is_told(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    finding = client.get(f"/v1/audits/{published}/findings/110").json()
    assert (finding["tokens"], finding["nearest"]) == (None, None)
    page = Page(client.get(f"/audits/{published}/findings/110").text)
    assert "worked out for the 100 samples that each training run itself ranked first" in page.text
    assert "Similar samples were not computed for this one" in page.text
    assert not [attrs for attrs, _ in page.all("table") if attrs.get("id") in ("words", "nearest")]


def test_the_nearest_samples_are_linked(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    nearest = client.get(f"/v1/audits/{published}/findings/30").json()["nearest"]
    assert [(near["row"], near["similarity"], near["near_duplicate"]) for near in nearest] == [
        (31, 0.875, True), (32, 0.75, False), (33, 0.625, False), (34, 0.5, False), (35, 0.375, False),
    ]  # fmt: skip
    for near in nearest:
        other = client.get(f"/v1/audits/{published}/findings/{near['row']}").json()
        assert [near[name] for name in ("rank", "z", "q", "flagged")] == [
            other[name] for name in ("rank", "z", "q", "flagged")
        ]
    page = Page(client.get(f"/audits/{published}/findings/30?flagged=true").text)
    links = [attrs["href"] for attrs, text in page.all("a") if text == "Row 33"]
    assert links == [f"/audits/{published}/findings/33?flagged=true"]
    assert "near-duplicate" in next(text for attrs, text in page.all("table") if attrs.get("id") == "nearest")
