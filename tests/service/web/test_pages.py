"""The dashboard over HTTP: pages say what the API says, need a sign-in, and never take a sample for markup."""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from service.app import create_app
from service.contract.failure import ErrorCode, Failure
from service.contract.protocol import ProgressEvent, Stage
from service.contract.results import BaselineComparison, Drift
from service.keys.secrets import create_key, create_sign_in_link
from service.lifecycle.audits import record_progress, request_cancel, start_step
from service.lifecycle.jobs import fail
from service.settings import Settings
from tests.support.made_audits import HOSTILE, make_published, make_queued, record_metric, take, train
from tests.support.summaries import make_group, make_probe_summary

Sessions = sessionmaker[Session]
SignIn = Callable[..., TestClient]


class Page(HTMLParser):
    """A parsed page: elements in order with their attributes and the text inside them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in ("meta", "link", "img", "source", "br", "input", "line", "circle", "path"):
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1][0] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for _, _, texts in self._open:
            texts.append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        wanted = {name.replace("_", "-").strip("-"): value for name, value in attributes.items()}
        return [
            (attrs, "".join(texts))
            for name, attrs, texts in self.elements
            if name == tag and all(attrs.get(key) == value for key, value in wanted.items())
        ]

    @property
    def text(self) -> str:
        return " ".join(self.all("html")[0][1].split())


@pytest.fixture
def app_client(settings: Settings, workspace_id: str) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url="http://localhost", follow_redirects=False) as client:
        yield client


@pytest.fixture
def sign_in(app_client: TestClient, sessions: Sessions, workspace_id: str) -> SignIn:
    """Signs the client in with a key of the given scopes."""

    def go(*scopes: Any, workspace: str = workspace_id) -> TestClient:
        with sessions.begin() as session:
            key, _ = create_key(session, workspace_id=workspace, name="browser", scopes=scopes or ("admin",))
            token = create_sign_in_link(session, key_id=key.id, minutes=5)
        app_client.cookies.clear()
        assert app_client.get("/sign-in", params={"token": token}).status_code == 303
        return app_client

    return go


@pytest.fixture
def published(sessions: Sessions, workspace_id: str) -> str:
    with sessions.begin() as session:
        return make_published(session, workspace_id).id


def every_page(audit_id: str) -> list[str]:
    audit = f"/audits/{audit_id}"
    return ["/audits", audit, f"{audit}/findings", f"{audit}/findings?flagged=true", f"{audit}/findings/3", "/datasets",
            "/probes", "/audits/aud_missing"]  # fmt: skip


PICTURES = (
    "histogram.svg",
    "loss.svg?until=30&seed=7",
    "calibration.svg",
    "sensitivity.svg",
    "drift.svg",
    "group.svg?group=forum",
    "findings/3/trace.svg",
)

# ---------------------------------------------------------------- who may see it


def test_the_root_leads_to_the_audits(sign_in: SignIn) -> None:
    answer = sign_in().get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/audits")


def test_signed_out_visitors_learn_how_to_sign_in_and_nothing_else(app_client: TestClient, published: str) -> None:
    pages = [*every_page(published), *(f"/audits/{published}/{name}" for name in PICTURES)]
    for path in pages:
        answer = app_client.get(path)
        assert answer.status_code == 401, path
        page = Page(answer.text)
        assert "finetooth up" in page.text
        assert "one-time link" in page.text
        assert "chats.jsonl" not in answer.text


def test_a_session_that_ended_says_so(app_client: TestClient) -> None:
    app_client.cookies.set("finetooth_session", "x" * 43)
    answer = app_client.get("/audits")
    assert answer.status_code == 401
    assert "You are signed out" in Page(answer.text).text


def test_another_workspace_sees_nothing(sign_in: SignIn, published: str, other_workspace_id: str) -> None:
    client = sign_in(workspace=other_workspace_id)
    assert "No audit yet" in client.get("/audits").text
    for path in every_page(published)[1:5]:
        assert client.get(path).status_code == 404, path
    for name in PICTURES:
        assert client.get(f"/audits/{published}/{name}").status_code == 404


def test_samples_need_the_scope_for_findings(sign_in: SignIn, published: str) -> None:
    client = sign_in("audits:write")
    answer = client.get(f"/audits/{published}")
    assert answer.status_code == 200
    assert "Finetooth flags 21 of 120 samples" in answer.text
    assert "Question of row" not in answer.text
    for path in (f"/audits/{published}/findings", f"/audits/{published}/findings/3"):
        answer = client.get(path)
        assert answer.status_code == 403
        assert "findings:read" in answer.text
        assert "Question of row" not in answer.text


# ---------------------------------------------------------------- no sample becomes markup


def test_no_page_holds_code_or_style_of_its_own(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    for path in every_page(published):
        answer = client.get(path)
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "no-store" in answer.headers["cache-control"]
        for tag, attributes, texts in Page(answer.text).elements:
            if tag == "script":
                assert (attributes.get("src") or "").startswith("/static/app.js?v=")
                assert not "".join(texts).strip()
            assert tag not in ("style", "iframe", "object", "embed", "base"), (path, tag)
            for name, value in attributes.items():
                assert name != "style", (path, tag)
                assert not name.startswith("on"), (path, tag, name)
                if name in ("href", "src", "action", "srcset"):
                    assert re.match(r"[/#]", value or ""), (path, tag, value)


def test_hostile_samples_are_text_and_nothing_hides_in_them(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    for row in range(len(HOSTILE)):
        answer = client.get(f"/audits/{published}/findings/{row}")
        assert answer.status_code == 200
        page = Page(answer.text)
        tags = {tag for tag, _, _ in page.elements}
        assert {"style", "textarea"}.isdisjoint(tags)
        assert [attrs["src"] for attrs, _ in page.all("img")] == [
            f"/audits/{published}/findings/{row}/trace.svg?scheme=light"
        ]
        assert len(page.all("script")) == 1
        bare = re.sub(r"[\u202e\u202c\u200b\x07\u2066\u2069]", "", HOSTILE[row])
        text = page.all("ol", class_="turns")[0][1]
        shown = re.sub(r"U\+[0-9A-F]{4}", "", text)
        assert f"Question of row {row}: {bare}" in shown
        assert not re.search(r"[\u202e\u202c\u200b\x07\u2066\u2069]", answer.text)
    bidi = next(row for row, text in enumerate(HOSTILE) if "\u202e" in text)
    page = Page(client.get(f"/audits/{published}/findings/{bidi}").text)
    named = [(attrs["title"], text) for attrs, text in page.all("span", class_="hidden-character")]
    assert ("RIGHT-TO-LEFT OVERRIDE", "U+202E") in named
    assert ("ZERO WIDTH SPACE", "U+200B") in named
    assert "6 characters in this text would not show" in page.text


def test_hostile_names_are_text(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_published(
            session, workspace_id, dataset_name="<script>x</script>\u202e.jsonl", probes=2,
            groups={"<script>x</script>\u202e": make_group()},
        )  # fmt: skip
    client = sign_in()
    for path in [*every_page(audit.id)]:
        html = client.get(path).text
        assert "<script>x" not in html
        assert "\u202e" not in html


# ---------------------------------------------------------------- what is said is what the API says


def test_the_list_shows_every_audit_newest_first(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        first = make_published(session, workspace_id, dataset_name="first.jsonl").id
    with sessions.begin() as session:
        second = make_queued(session, workspace_id, dataset_name="second.jsonl").id
    page = Page(sign_in().get("/audits").text)
    rows = [(attrs["data-audit"], " ".join(text.split())) for attrs, text in page.all("tr") if "data-audit" in attrs]
    assert [row[0] for row in rows] == [second, first]
    assert "queued" in rows[0][1]
    assert "second.jsonl" in rows[0][1]
    assert "21 of 120" in rows[1][1]


def test_older_audits_are_a_page_away(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    ids = []
    for number in range(3):
        with sessions.begin() as session:
            ids.append(make_queued(session, workspace_id, dataset_name=f"set-{number}.jsonl").id)
    client = sign_in()
    page = Page(client.get("/audits?limit=2").text)
    assert [attrs["data-audit"] for attrs, _ in page.all("tr") if "data-audit" in attrs] == ids[:0:-1]
    older = page.all("a", rel="next")[0][0]["href"]
    page = Page(client.get(str(older)).text)
    assert [attrs["data-audit"] for attrs, _ in page.all("tr") if "data-audit" in attrs] == ids[:1]


def test_the_audits_numbers_are_those_of_the_api(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    summary = client.get(f"/v1/audits/{published}").json()["summary"]
    page = Page(client.get(f"/audits/{published}").text)
    assert (
        "Finetooth flags 21 of 120 samples; at q = 0.05 about 1 of them is expected to be a false alarm." in page.text
    )
    assert summary["flagged"] == 21
    shown = {attrs["value"] for attrs, _ in page.all("data")}
    (probe,) = summary["probes"]
    for name in ("rows", "rows_scored", "rows_truncated", "clusters", "flagged", "steps", "tokens", "refreshes",
                 "train_loss_first", "train_loss_last"):  # fmt: skip
        assert str(summary[name]) in shown, name
    for name in ("threshold_z", "items", "loss_first", "loss_last"):
        assert str(probe[name]) in shown, name
    for value in probe["null"].values():
        assert value == "student_t" or str(value) in shown
    for comparison in summary["baselines"]:
        assert {str(comparison[name]) for name in ("spearman", "top_overlap", "auc")} <= shown
    for group in summary["groups"].values():
        assert {str(group[name]) for name in ("rows", "flagged", "mu")} <= shown
    assert summary["warnings"][0]["message"] in page.text


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
        wanted = [str(finding[name]) for finding in expected["data"] for name in ("rank", "mu", "z", "p", "q")]
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
    names = ("rank", "n", "mu", "mu_low", "mu_high", "mu_composed", "z", "z_reference", "p", "q")
    exact = [attrs["value"] for attrs, _ in page.all("data")][-len(names) :]
    assert exact == [str(finding[name]) for name in names]
    assert "Flagged, rank 1 of 120" in page.text
    assert not page.all("a", rel="prev")
    following = str(page.all("a", rel="next")[0][0]["href"])
    assert "Rank 2 of 120" in Page(client.get(following).text).text


def test_how_far_to_trust_a_result_is_told(sign_in: SignIn, published: str) -> None:
    page = Page(sign_in().get(f"/audits/{published}").text)
    for sentence in (
        "the 20 placebo directions gave 31 of 3,000, expected 20 to 41: as it should be.",
        "Of 5 hidden tracers the audit would have found 81 % (62 to 93 %).",
        "moved 0.52 times as far as the recorded effects predict",
        "within gamma = 0.08 of a Gaussian curve",
    ):
        assert sentence in page.text
    assert "finds these too" not in page.text
    assert "Do the seeds agree?" not in page.text


def test_a_simpler_method_that_finds_the_same_is_named(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    found = BaselineComparison(name="repeated_output", spearman=0.9, top_overlap=0.95, auc=0.99)
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, baselines=(found,))
    page = Page(sign_in().get(f"/audits/{audit.id}").text)
    assert "Repeated outputs counting repeated outputs finds these too" in page.text


def test_what_could_not_be_measured_is_said_and_not_drawn(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    bare = make_probe_summary(
        sensitivity=None, placebo=None, flagged=0, threshold_z=None,
        drift=Drift(step=(), predicted=(), realised=(), slope=None, correlation=None),
    )  # fmt: skip
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, flagged=0, gaussianity=None, baselines=(), groups={})
        audit.summary = {**audit.summary, "probes": [bare.model_dump(mode="json")]}
    client = sign_in()
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert "What this audit could have found is not known" in page.text
    assert "There are no placebo directions" in page.text
    assert "too seldom" in page.text
    sources = [attrs["src"] or "" for attrs, _ in page.all("img")]
    assert not [source for source in sources if "sensitivity" in source or "drift" in source]
    assert client.get(f"/audits/{audit.id}/sensitivity.svg").status_code == 404
    assert client.get(f"/audits/{audit.id}/group.svg?group=forum").status_code == 404


def test_several_probes_and_seeds_are_told_one_by_one(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, probes=2, seeds=3).id
    client = sign_in()
    answer = client.get(f"/audits/{audit}")
    page = Page(answer.text)
    assert "<b>Vexon</b>" not in answer.text
    summaries = [" ".join(text.split()) for _, text in page.all("summary")]
    assert summaries[0].startswith("opinion about Orvello On its own this probe flags 21 of 120 samples")
    assert summaries[1].startswith("praise of <b>Vexon</b> On its own")
    assert "3 runs with other seeds order the samples alike to a rank correlation of 0.84" in page.text
    for name in ("histogram", "calibration", "sensitivity", "drift"):
        assert client.get(f"/audits/{audit}/{name}.svg?probe=2").status_code == 200
        assert client.get(f"/audits/{audit}/{name}.svg?probe=3").status_code == 404
    for seed in (7, 8, 9):
        assert client.get(f"/audits/{audit}/loss.svg?until=30&seed={seed}").status_code == 200
    assert f"/audits/{audit}/loss.svg?scheme=light&seed=7&until=30" in [a["src"] for a, _ in page.all("img")]
    listed = Page(client.get(f"/audits/{audit}/findings?probe=2&flagged=true").text)
    rows = [attrs["data-row"] for attrs, _ in listed.all("tr") if "data-row" in attrs]
    expected = client.get(f"/v1/audits/{audit}/findings?probe=2&flagged=true").json()["data"]
    assert rows == [str(finding["row"]) for finding in expected]
    one = Page(client.get(f"/audits/{audit}/findings/{rows[0]}").text)
    assert "What each probe alone says of it" in one.text
    assert "each of its 6 observations" in (one.all("img")[0][0]["alt"] or "")
    assert "and 1 more" in Page(client.get("/audits").text).text


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


# ---------------------------------------------------------------- states of an audit


def test_a_running_audit_shows_stage_numbers_and_time_left(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
    client = sign_in()
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert "Waiting for a free worker" in page.text
    with sessions.begin() as session:
        taken = take(session, audit)
        assert start_step(session, taken, "train:7", "a" * 64)
        record_progress(
            session, taken, ProgressEvent(stage=Stage.TRAINING, done=9, total=30, unit="steps", eta_seconds=125)
        )
        for step in range(1, 10):
            record_metric(session, taken, step)
    answer = client.get(f"/audits/{audit.id}")
    page = Page(answer.text)
    assert page.all("li", aria_current="step")[0][1] == "Training and measuring"
    bar = page.all("progress")[0][0]
    assert (bar["value"], bar["max"]) == ("9", "30")
    assert "9 of 30 steps" in page.text
    assert "30 %" in page.text
    assert "about 2 min left" in page.text
    assert page.all("div", id="audit")[0][0]["data-live"] == f"/audits/{audit.id}"
    assert ("http-equiv", "refresh") in [item for _, attrs, _ in page.elements for item in attrs.items()], "no script"
    assert client.get(f"/audits/{audit.id}/loss.svg?until=9&seed=7").status_code == 200
    assert client.get(f"/audits/{audit.id}/histogram.svg").status_code == 404
    assert "There are no findings yet" in client.get(f"/audits/{audit.id}/findings").text


def test_a_running_audit_of_several_seeds_tells_which(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id, seeds=2)
        taken = take(session, audit)
        train(session, taken, 7)
        assert start_step(session, taken, "train:8", "a" * 64)
        record_progress(session, taken, ProgressEvent(stage=Stage.TRAINING, done=4, total=30, unit="steps"))
        for step in range(1, 5):
            record_metric(session, taken, step, 8)
    client = sign_in()
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert "seed 2 of 2" in page.text
    assert page.all("figure", id="loss")[0][1].strip().startswith("Of seed 8.")
    assert "Training and measuring, seed 2 of 2 · 13 %" in Page(client.get("/audits").text).text
    with sessions.begin() as session:
        assert start_step(session, taken, "combine", "a" * 64)
        record_progress(session, taken, ProgressEvent(stage=Stage.LOADING, done=0))
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert page.all("li", aria_current="step")[0][1] == "Scoring"
    assert "all 2 seeds together" in page.text


def test_a_failed_audit_says_why_and_what_to_do(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    failure = Failure(
        code=ErrorCode.OUT_OF_MEMORY, message="Out of memory at step 3.", hint="Set micro_batch_size to 2."
    )
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
        assert fail(session, take(session, audit), failure)
    page = Page(sign_in().get(f"/audits/{audit.id}").text)
    for part in ("The audit failed", failure.message, failure.hint, "out_of_memory"):
        assert part in page.text
    assert "data-live" not in page.all("div", id="audit")[0][0]


def test_a_cancelled_audit_says_so_plainly(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
        request_cancel(session, workspace_id=workspace_id, audit_id=audit.id)
    page = Page(sign_in().get(f"/audits/{audit.id}").text)
    assert "This audit was cancelled" in page.text
    assert "Nothing of it was published" in page.text


def test_an_audit_without_flags_says_so_and_promises_nothing(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, flagged=0)
    client = sign_in()
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert "Finetooth flags none of 120 samples" in page.text
    assert "no proof that the data is clean" in page.text
    assert "No sample is flagged" in client.get(f"/audits/{audit.id}/findings?flagged=true").text


# ---------------------------------------------------------------- pictures, files, mistakes


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_images_without_any_text_of_a_sample(sign_in: SignIn, published: str, name: str) -> None:
    client = sign_in()
    joint = "&" if "?" in name else "?"
    drawn = set()
    for scheme in ("light", "dark"):
        for width in ("wide", "narrow"):
            answer = client.get(f"/audits/{published}/{name}{joint}scheme={scheme}&width={width}")
            assert answer.headers["content-type"] == "image/svg+xml"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.text.startswith("<svg")
            for text in (*HOSTILE, "Question", "Orvello", "chats.jsonl", "forum"):
                assert text not in answer.text
            drawn.add(answer.text)
    assert len(drawn) == (4 if name.startswith(("histogram", "loss")) else 2)
    assert client.get(f"/audits/{published}/{name}{joint}scheme=pink").status_code == 404


def test_static_files_are_cached_for_ever_under_their_hash(app_client: TestClient) -> None:
    page = Page(app_client.get("/audits").text)
    files = [attrs["href"] for attrs, _ in page.all("link")] + [attrs["src"] for attrs, _ in page.all("script")]
    assert len(files) == 3
    for file in files:
        answer = app_client.get(str(file))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert app_client.get("/static/app.js").headers["cache-control"] == "no-cache"
    for path in ("/static/nothing.js", "/static/..%2ftemplates%2fbase.html", "/static/"):
        assert app_client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/audits/aud_missing", "/audits/{}/findings/999999", "/audits/{}/findings/x", "/audits/{}/findings?after=!"],
)
def test_what_is_not_there_is_a_page_that_leads_back(sign_in: SignIn, published: str, path: str) -> None:
    answer = sign_in().get(path.format(published))
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"].startswith("text/html")
    assert ("href", "/audits") in [item for _, attrs, _ in Page(answer.text).elements for item in attrs.items()]


def test_datasets_and_probes_are_listed(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    datasets, probes = Page(client.get("/datasets").text), Page(client.get("/probes").text)
    assert "chats.jsonl" in datasets.text
    assert [attrs["value"] for attrs, _ in datasets.all("data")] == ["120", "54321"]
    assert "opinion about Orvello" in probes.text
    assert [attrs["value"] for attrs, _ in probes.all("data")] == ["8"]


def test_pages_are_not_part_of_the_api(sign_in: SignIn) -> None:
    paths = sign_in().get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path.startswith(("/audits", "/static", "/datasets", "/probes"))]


def test_headings_tables_and_controls_are_labelled(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    for path in every_page(published):
        page = Page(client.get(path).text)
        levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
        assert levels.count(1) == 1, path
        assert levels[0] == 1, path
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels)), (path, levels)
        assert len(page.all("main")) == 1
        assert len(page.all("table")) == len(page.all("caption"))
        assert all(attrs.get("alt") for attrs, _ in page.all("img"))
        assert all(attrs.get("aria-label") for attrs, _ in page.all("progress"))
        identifiers = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
        assert len(identifiers) == len(set(identifiers)), path


# ---------------------------------------------------------------- what can be done there

OURS = {"Sec-Fetch-Site": "same-origin"}


def test_buttons_cancel_an_audit_and_try_it_again(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit_id = make_queued(session, workspace_id).id
    client = sign_in()
    address = f"/audits/{audit_id}"

    def buttons() -> list[str | None]:
        forms = Page(client.get(address).text).all("form", method="post")
        return [attributes["action"] for attributes, _ in forms if attributes["action"] != "/sign-out"]

    assert buttons() == [f"{address}/cancel"]
    for act, status, after in (("cancel", "cancelled", ["retry", "delete"]), ("retry", "queued", ["cancel"])):
        answer = client.post(f"{address}/{act}", headers=OURS)
        assert (answer.status_code, answer.headers["location"]) == (303, address)
        assert client.get(f"/v1{address}").json()["status"] == status
        assert buttons() == [f"{address}/{other}" for other in after]


def test_another_site_cannot_press_them(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit_id = make_queued(session, workspace_id).id
    client = sign_in()
    assert client.post(f"/audits/{audit_id}/cancel", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get(f"/v1/audits/{audit_id}").json()["status"] == "queued"


def test_who_may_only_read_sees_no_buttons(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit_id = make_queued(session, workspace_id).id
    client = sign_in("findings:read")
    assert f"/audits/{audit_id}/cancel" not in client.get(f"/audits/{audit_id}").text
    assert client.post(f"/audits/{audit_id}/cancel", headers=OURS).status_code == 403


def test_a_finished_audit_links_its_report_and_can_be_deleted(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=25, flagged=3)
    client = sign_in()
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert page.all("a", href=f"/v1/audits/{audit.id}/report")
    assert client.get(f"/v1/audits/{audit.id}/report").text.startswith("<!doctype html>")
    assert page.all("form", action=f"/audits/{audit.id}/delete", method="post")
    export = client.post(f"/v1/audits/{audit.id}/exports", json={"kind": "scores"}, headers=OURS).json()
    refused = client.post(f"/audits/{audit.id}/delete", headers=OURS)
    assert refused.status_code == 409
    assert export["id"] in Page(refused.text).text
    foreign = client.post(f"/audits/{audit.id}/delete", headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    client.post(f"/v1/exports/{export['id']}/cancel", headers=OURS)
    gone = client.post(f"/audits/{audit.id}/delete", headers=OURS)
    assert (gone.status_code, gone.headers["Location"]) == (303, "/audits")
    assert client.get(f"/audits/{audit.id}").status_code == 404
    assert "chats.jsonl" not in Page(client.get("/audits").text).text


def test_who_may_not_delete_or_read_findings_is_offered_neither(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        done = make_published(session, workspace_id, rows=25, flagged=3)
    page = Page(sign_in("datasets:write").get(f"/audits/{done.id}").text)
    assert not page.all("form", action=f"/audits/{done.id}/delete")
    assert not page.all("a", href=f"/v1/audits/{done.id}/report")
    with sessions.begin() as session:
        waits = make_queued(session, workspace_id)
    page = Page(sign_in().get(f"/audits/{waits.id}").text)
    assert not page.all("form", action=f"/audits/{waits.id}/delete")
    assert not page.all("a", href=f"/v1/audits/{waits.id}/report")
