"""The report: one file that says what the API says, runs nothing, asks for nothing, and stays small."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from service.app import create_app
from service.cli.app import app as command
from service.contract.results import Summary
from service.keys.secrets import create_key
from service.settings import Settings
from service.store.score_lists import find_headline
from service.store.tables import Audit, Dataset, Finding, Score
from service.text import wording
from tests.support.live_api import live_api
from tests.support.made_audits import HOSTILE, PROBES, make_published, make_queued
from tests.support.summaries import make_group

Sessions = sessionmaker[Session]

URL_ATTRIBUTES = {"href", "src", "srcset", "action", "formaction", "data", "poster", "background", "xlink:href", "ping"}


class Document(HTMLParser):
    """Every element with its attributes, and the text that is no stylesheet."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.styles: list[str] = []
        self._said: list[str] = []
        self._in_style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = self._in_style and tag != "style"

    def handle_data(self, data: str) -> None:
        (self.styles if self._in_style else self._said).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._said).split())


@pytest.fixture
def clients(settings: Settings, sessions: Sessions, workspace_id: str) -> Iterator[Callable[..., TestClient]]:
    """Makes clients with keys of the given scopes."""
    app = create_app(settings)

    def make(*scopes: Any, workspace: str = workspace_id) -> TestClient:
        with sessions.begin() as session:
            _, secret = create_key(session, workspace_id=workspace, name="test", scopes=scopes or ("admin",))
        client = TestClient(app, base_url="http://localhost")
        client.headers["Authorization"] = f"Bearer {secret}"
        return client

    return make


@pytest.fixture
def client(clients: Callable[..., TestClient]) -> TestClient:
    return clients()


@pytest.fixture
def published(sessions: Sessions, workspace_id: str) -> Audit:
    with sessions.begin() as session:
        return make_published(session, workspace_id, versions={"torch": "2.13.0"})


def report(client: TestClient, audit: Audit) -> str:
    answer = client.get(f"/v1/audits/{audit.id}/report")
    assert answer.status_code == 200, answer.text
    return answer.text


def test_it_says_what_was_asked_what_came_of_it_and_where_it_is_from(
    client: TestClient, sessions: Sessions, published: Audit
) -> None:
    summary = Summary.model_validate(published.summary)
    said = Document(report(client, published)).text
    with sessions() as session:
        dataset = session.get_one(Dataset, published.dataset_id)
    for expected in [
        wording.verdict(summary),
        *wording.claims(summary),
        *(warning.message for warning in summary.warnings),
        *(dataset.name, dataset.id, dataset.sha256, "120 samples", "54,321 bytes"),
        *(PROBES[0], published.id, published.model_id, "a" * 40, "1, with seed 7", "2.13.0", summary.device),
        "Of 5 tracers (answers of the probe hidden among the samples) the audit would have found 81 %",
        "With 20 placebo directions (which mean nothing), 31 of",
        "The first 20 of 21 flagged samples",
        *("Rank 1 ", "Rank 20 "),
        *("docs", "forum", "3 min 21 s"),
    ]:
        assert expected in said, expected
    assert "Rank 21 " not in said
    assert "What reviewers said" not in said
    top = client.get(f"/v1/audits/{published.id}/findings?flagged=true&limit=20").json()["data"]
    assert [int(row) for row in re.findall(r"Rank \d+ row (\d+)", said)] == [finding["row"] for finding in top]


def test_it_holds_every_chart_as_markup_of_its_own(client: TestClient, published: Audit) -> None:
    elements = Document(report(client, published)).elements
    pictures = [attributes for tag, attributes in elements if tag == "div" and attributes.get("role") == "img"]
    # Histogram, calibration, sensitivity, drift, the curve of the one group that has one, loss.
    assert len(pictures) == 6
    assert all(len(attributes["aria-label"] or "") > 40 for attributes in pictures)
    assert sum(tag == "svg" for tag, _ in elements) == 6 + 20  # and each sample's interval


def test_it_runs_nothing_and_asks_for_nothing(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    """Whatever samples, names and notes hold, seven of which are hostile, as is the second probe's name."""
    with sessions.begin() as session:
        audit = make_published(
            session, workspace_id, probes=2, dataset_name=HOSTILE[0], groups={HOSTILE[1]: make_group()}
        )
    for row in range(0, 120, 7):
        client.put(f"/v1/audits/{audit.id}/findings/{row}/verdict", json={"verdict": "unsure", "note": HOSTILE[2]})
    document = Document(report(client, audit))
    assert {tag for tag, _ in document.elements} & {
        *("script", "iframe", "object", "embed", "form", "link", "base", "img", "image", "use", "a", "foreignobject")
    } == set()
    assert sum(tag == "style" for tag, _ in document.elements) == 1
    for tag, attributes in document.elements:
        assert not set(attributes) & URL_ATTRIBUTES, (tag, attributes)
        assert not {name for name in attributes if name.startswith("on") or name == "style"}, (tag, attributes)
        for value in attributes.values():
            assert "url(" not in (value or "")
    assert "url(" not in document.styles[0]
    assert "@import" not in document.styles[0]
    for hostile in (HOSTILE[0], HOSTILE[1]):
        assert hostile in document.text  # as text
    assert "[U+202E]" not in document.text  # in samples it is an element of its own
    assert "U+202E" in document.text
    assert not set("\u202e\u2066\u200b\x07") & set(document.text)


def test_the_policy_lets_pass_its_own_stylesheet_alone(client: TestClient, published: Audit) -> None:
    answer = client.get(f"/v1/audits/{published.id}/report")
    document = Document(answer.text)
    digest = base64.b64encode(hashlib.sha256(document.styles[0].encode()).digest()).decode()
    header = answer.headers["Content-Security-Policy"]
    inside = [a["content"] for tag, a in document.elements if tag == "meta" and "http-equiv" in a]
    for policy in (header, *inside):
        directives = dict(part.strip().partition(" ")[::2] for part in (policy or "").split(";"))
        assert directives["default-src"] == "'none'"
        assert directives["style-src"] == f"'sha256-{digest}'"
        assert not any("unsafe" in value or "script" in name for name, value in directives.items())
    assert len(inside) == 1
    assert "sandbox" in header
    assert "frame-ancestors 'none'" in header
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Disposition"].startswith(f'inline; filename="finetooth-report-{published.id}.html"')
    assert answer.headers["Cache-Control"] == "no-store"


def test_verdicts_and_precision_stand_in_it_and_change_its_tag(client: TestClient, published: Audit) -> None:
    address = f"/v1/audits/{published.id}/report"
    tag = client.get(address).headers["ETag"]
    assert client.get(address, headers={"If-None-Match": tag}).status_code == 304
    top = [finding["row"] for finding in client.get(f"/v1/audits/{published.id}/findings?limit=4").json()["data"]]
    for row, verdict in zip(top, ("confirmed", "confirmed", "rejected", "unsure"), strict=True):
        body = {"verdict": verdict, "note": f"note {row} \u202e"}
        assert client.put(f"/v1/audits/{published.id}/findings/{row}/verdict", json=body).status_code == 200
    again = client.get(address, headers={"If-None-Match": tag})
    assert again.status_code == 200
    assert again.headers["ETag"] != tag
    said = Document(again.text).text
    assert f"note {top[0]} U+202E" in said
    counts = client.get(f"/v1/audits/{published.id}/precision").json()["data"][0]
    assert (counts["confirmed"], counts["rejected"], counts["unsure"]) == (2, 1, 1)
    assert re.search(r"the first 10 10 4 2 1 1 67 % 9 to 99 %", said)


def test_it_is_as_long_for_huge_samples_and_many_groups(
    client: TestClient, sessions: Sessions, workspace_id: str
) -> None:
    groups = {f"group {number}": make_group(flagged=number) for number in range(400)}
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, groups=groups)
        turns = [{"role": "user", "content": "long \u202e" * 3_000}] * 40
        flagged = select(Score.row).where(Score.list_id == find_headline(session, audit), Score.flagged)
        session.execute(update(Finding).where(Finding.row.in_(flagged)).values(messages=turns))
    html = report(client, audit)
    said = Document(html).text
    assert "characters more" in said
    assert "34 turns more" in said
    assert "The 30 groups with the most flagged samples, of 400." in said
    assert "group 399" in said
    assert "group 369" not in said
    # Each second character is one that is named, in an element of its own.
    assert len(html) < 20 * 6 * 1200 * 30


def test_nothing_flagged_is_told_as_no_proof(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=60, flagged=0, groups={}, warnings=(), gaussianity=None)
    said = Document(report(client, audit)).text
    assert "does not prove that the data is clean" in said
    assert "None is flagged." in said
    assert "Read with care" not in said


def test_several_probes_and_seeds_each_have_their_part(
    client: TestClient, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, probes=2, seeds=3, flagged=4)
    html = report(client, audit)
    said = Document(html).text
    assert html.count("Can the error rate be trusted?") == 2
    for name in PROBES:
        assert f"{name} : On its own this probe flags" in said or f"{name}: On its own this probe flags" in said
    assert "3, with seeds 7, 8, 9" in said
    assert "The rankings of 3 runs with different seeds" in said


def test_who_may_have_it(
    clients: Callable[..., TestClient], sessions: Sessions, workspace_id: str, published: Audit
) -> None:
    address = f"/v1/audits/{published.id}/report"
    assert clients("findings:read").get(address).status_code == 200
    refused = clients("audits:write").get(address)
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    with sessions.begin() as session:
        queued = make_queued(session, workspace_id)
    early = clients("findings:read").get(f"/v1/audits/{queued.id}/report")
    assert (early.status_code, early.json()["code"]) == (409, "audit_not_finished")


def test_the_command_writes_the_file(
    settings: Settings,
    sessions: Sessions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with live_api(settings) as api:
        monkeypatch.setenv("FINETOOTH_URL", api.url)
        monkeypatch.setenv("FINETOOTH_API_KEY", api.key)
        monkeypatch.chdir(tmp_path)
        with sessions.begin() as session:
            audit = make_published(session, api.workspace_id)
            queued = make_queued(session, api.workspace_id)

        def run(*arguments: str) -> tuple[int, str]:
            result = CliRunner().invoke(command, ["report", *arguments])
            return result.exit_code, result.output

        name = f"finetooth-report-{audit.id}.html"
        exit_code, output = run(audit.id)
        assert (exit_code, output) == (0, f"{name}: {wording.data_size((tmp_path / name).stat().st_size)}\n")
        (tmp_path / "folder").mkdir()
        assert run(audit.id, "-o", str(tmp_path / "folder" / "r.html"))[0] == 0
        assert "Finetooth flags 21 of 120" in (tmp_path / "folder" / "r.html").read_text()
        for arguments, code, part in [
            ((queued.id,), 2, "Its results come when it has succeeded"),
            (("../x",), 2, "not the id of an audit"),
            ((audit.id, "-o", str(tmp_path / "folder")), 2, "a folder"),
            ((audit.id, "-o", str(tmp_path / "nowhere" / "r.html")), 2, "no such folder"),
            (("aud_nope",), 2, "no audit of this id"),
        ]:
            exit_code, output = run(*arguments)
            assert exit_code == code, (arguments, output)
            assert part in output
        assert sorted(path.name for path in tmp_path.rglob("*.part")) == []
