"""Findings over REST: every sample by rank, the published attempt alone, and one sample with its text."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.contract.results import ScoreRow
from service.lifecycle.audits import publish
from service.lifecycle.jobs import claim, requeue_orphans
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.score_lists import add_lists
from service.store.tables import Audit, Finding, Score
from tests.support.builders import add_audit, summary_of

Sessions = sessionmaker[Session]
ROWS = 40
FLAGGED = 3


def order(attempt: int) -> list[int]:
    """The rows by rank: another order in every attempt."""
    step = {1: 7, 2: 9}[attempt]
    return [(step * position + 3) % ROWS for position in range(ROWS)]


def add_results(session: Session, audit: Audit, attempt: int, probes: int = 1) -> None:
    """Ranks of probe 2 alone are those of the headline the other way round."""
    lists = add_lists(session, audit_id=audit.id, attempt=attempt, probes=probes)
    for probe_no, list_id in enumerate(lists):
        _add_list(session, audit, attempt, probe_no, list_id)


def _add_list(session: Session, audit: Audit, attempt: int, probe_no: int, list_id: int) -> None:
    rows = order(attempt)
    for position, row in enumerate(reversed(rows) if probe_no == 2 else rows):
        flagged = position < FLAGGED
        session.add(
            Score(
                list_id=list_id,
                strongest_probe=max(probe_no, 1),
                rank=position + 1,
                row=row,
                n=2,
                mu=1.0 - position / ROWS,
                mu_low=None if position == 5 else 0.0,
                mu_high=2.0,
                z=8.0 - position / 4,
                mu_composed=2.5,
                z_reference=None,
                side=("toward", "against")[position % 2] if flagged else None,
                cluster=3 if row in (3, 10, 11) else row,
                p=0.001,
                q=0.01 if flagged else 0.9,
                flagged=flagged,
                group="news" if row % 2 else None,
            )
        )
        if position < 5 and not probe_no:
            session.add(
                Finding(
                    audit_id=audit.id,
                    attempt=attempt,
                    row=row,
                    workspace_id=audit.workspace_id,
                    messages=messages(row, attempt),
                    extra={"source": "web"},
                    trace=[{"probe_no": 1, "seed": 7, "step": 4, "effect": 0.5, "alignment": None, "mu": 0.25}],
                    baselines={"length": float(row), "bm25": None},
                )
            )
    session.flush()


def messages(row: int, attempt: int | None = None) -> list[dict[str, str]]:
    kept = "" if attempt is None else f" kept in attempt {attempt}"
    return [{"role": "user", "content": f"question {row}"}, {"role": "assistant", "content": f"<b>{row}</b>{kept}"}]


@pytest.fixture
def audit(sessions: Sessions, workspace_id: str, settings: Settings) -> Audit:
    return publish_second_attempt(sessions, workspace_id, settings)


def publish_second_attempt(sessions: Sessions, workspace_id: str, settings: Settings, probes: int = 1) -> Audit:
    """An audit whose second attempt is published; the first one's rows are still there."""
    with sessions.begin() as session:
        audit = add_audit(session, workspace_id, probes=probes)
        first = claim(session, lane="gpu", owner="w")
        assert first is not None
        add_results(session, audit, first.attempt)
        requeue_orphans(session)
        second = claim(session, lane="gpu", owner="w")
        assert second is not None
        add_results(session, audit, second.attempt, probes)
        assert publish(session, second, summary_of(rows=ROWS, flagged=FLAGGED, probes=probes))
    table = pa.table(
        {
            "row": pa.array(range(ROWS), pa.int64()),
            "messages": [messages(row) for row in range(ROWS)],
            "extra": [json.dumps({"source": f"s{row}"}) for row in range(ROWS)],
        }
    )
    with LocalObjects(settings.objects).create(dataset_key(workspace_id, audit.dataset_id, "rows.parquet")) as file:
        pq.write_table(table, file, row_group_size=7)
    return audit


def path(audit: Audit, rest: str = "") -> str:
    return f"/v1/audits/{audit.id}/findings{rest}"


def walk(client: TestClient, url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    next_url: str | None = url
    while next_url:
        response = client.get(next_url)
        assert response.status_code == 200, response.text
        found += response.json()["data"]
        next_url = response.links.get("next", {}).get("url")
    return found


@pytest.mark.parametrize("limit", [1, 7, 40, 1000])
def test_every_sample_once_by_rank(client: TestClient, audit: Audit, limit: int) -> None:
    found = walk(client, path(audit, f"?limit={limit}"))
    assert [finding["rank"] for finding in found] == list(range(1, ROWS + 1))
    assert [finding["row"] for finding in found] == order(2)


def test_the_fields_are_those_of_the_contract(client: TestClient, audit: Audit) -> None:
    top, *_, sixth = client.get(path(audit, "?limit=6")).json()["data"]
    assert set(ScoreRow.model_fields) | {"object", "messages", "extra", "verdict"} == set(top)
    ScoreRow.model_validate({name: top[name] for name in ScoreRow.model_fields})
    assert (top["object"], top["rank"], top["flagged"], top["q"]) == ("finding", 1, True, 0.01)
    # The published attempt's text, where it is kept.
    assert top["messages"] == messages(top["row"], 2)
    assert top["extra"] == {"source": "web"}
    assert (sixth["messages"], sixth["extra"], sixth["mu_low"]) == (None, None, None)


def test_flagged_ones_and_others(client: TestClient, audit: Audit) -> None:
    assert [f["rank"] for f in walk(client, path(audit, "?flagged=true&limit=2"))] == [1, 2, 3]
    assert [f["rank"] for f in walk(client, path(audit, "?flagged=false&limit=5"))] == list(range(4, ROWS + 1))
    assert client.get(path(audit, "?flagged=perhaps")).status_code == 422


def test_filters(client: TestClient, audit: Audit) -> None:
    found = {f["row"]: f for f in walk(client, path(audit, "?limit=50"))}
    assert [f["row"] for f in walk(client, path(audit, "?cluster=3&limit=1"))] == sorted(
        (3, 10, 11), key=lambda row: found[row]["rank"]
    )
    assert walk(client, path(audit, "?cluster=10")) == []
    news = walk(client, path(audit, "?group=news&limit=3"))
    assert [f["row"] for f in news] == [row for row in order(2) if row % 2]
    assert [f["rank"] for f in walk(client, path(audit, "?side=toward&limit=1"))] == [1, 3]
    assert [f["rank"] for f in walk(client, path(audit, "?side=against&flagged=true"))] == [2]
    assert walk(client, path(audit, "?side=both")) == []
    for query in ("side=left", "cluster=-1", "probe=-1", "probe=9"):
        assert client.get(path(audit, f"?{query}")).status_code == 422


def test_each_probe_has_a_list_of_its_own(
    client: TestClient, sessions: Sessions, workspace_id: str, settings: Settings
) -> None:
    audit = publish_second_attempt(sessions, workspace_id, settings, probes=2)
    headline = walk(client, path(audit, "?limit=7"))
    assert [f["row"] for f in headline] == order(2)
    assert {f["probe_no"] for f in headline} == {0}
    second = walk(client, path(audit, "?probe=2&limit=7"))
    assert [f["row"] for f in second] == order(2)[::-1]
    assert {(f["probe_no"], f["strongest_probe"]) for f in second} == {(2, 2)}
    response = client.get(path(audit, "?probe=3"))
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "query:probe")
    row = order(2)[0]
    finding = client.get(path(audit, f"/{row}")).json()
    assert [(one["probe_no"], one["rank"]) for one in finding["probes"]] == [(1, 1), (2, ROWS)]
    assert finding["rank"] == 1


def test_the_only_probe_is_the_headline(client: TestClient, audit: Audit) -> None:
    assert client.get(path(audit, "?probe=1")).json()["data"] == client.get(path(audit)).json()["data"]
    finding = client.get(path(audit, "/3")).json()
    (alone,) = finding["probes"]
    assert alone == {name: finding[name] for name in ScoreRow.model_fields} | {"probe_no": 1}
    assert client.get(path(audit, "?probe=2")).status_code == 422


def test_a_finding_tells_how_it_came_about(client: TestClient, audit: Audit) -> None:
    top, last = order(2)[0], order(2)[-1]
    finding = client.get(path(audit, f"/{top}")).json()
    assert finding["trace"] == [{"probe_no": 1, "seed": 7, "step": 4, "effect": 0.5, "alignment": None, "mu": 0.25}]
    assert finding["baselines"] == {"length": float(top), "bm25": None}
    other = client.get(path(audit, f"/{last}")).json()
    assert (other["trace"], other["baselines"]) == (None, None)


def test_every_single_finding_has_its_text(client: TestClient, audit: Audit) -> None:
    kept = set(order(2)[:5])
    for row in range(ROWS):
        finding = client.get(path(audit, f"/{row}")).json()
        assert finding["row"] == row
        if row in kept:
            assert finding["messages"] == messages(row, 2)
        else:
            assert finding["messages"] == messages(row)
            assert finding["extra"] == {"source": f"s{row}"}


@pytest.mark.parametrize(
    ("row", "status", "code"),
    [
        ("40", 404, "finding_not_found"),
        (str(2**62), 404, "finding_not_found"),
        ("-1", 422, "invalid_request"),
        (str(2**63), 422, "invalid_request"),
        ("x", 422, "invalid_request"),
    ],
)
def test_rows_that_are_none(client: TestClient, audit: Audit, row: str, status: int, code: str) -> None:
    response = client.get(path(audit, f"/{row}"))
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_long_texts_shorten_the_page(
    client: TestClient, audit: Audit, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.findings.queries.PAGE_TEXT_BYTES", 1)
    page = client.get(path(audit, "?limit=10")).json()
    assert ([finding["rank"] for finding in page["data"]], page["has_more"]) == ([1], True)
    assert [finding["rank"] for finding in walk(client, path(audit, "?limit=10"))] == list(range(1, ROWS + 1))


def test_no_findings_before_the_end(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = add_audit(session, workspace_id)
        held = claim(session, lane="gpu", owner="w")
        assert held is not None
        add_results(session, audit, held.attempt)
    for rest in ("", "/0"):
        response = client.get(path(audit, rest))
        assert (response.status_code, response.json()["code"]) == (409, "audit_not_finished")
