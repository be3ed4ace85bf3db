"""Only what the contract promises gets into the database: every other set of files is refused, and leaves nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import UniqueViolation
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.jobs import claim
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.tables import Audit, Finding, Score, ScoreList
from tests.support.children.scripted_child import write_results
from tests.support.children.scripting import SUMMARY
from worker.supervisor.audit.result_loader import load_results, score_count
from worker.supervisor.errors import OutputError

ROWS = 40
Load = Callable[..., list[int]]


@pytest.fixture
def load(
    sessions: sessionmaker[Session], make_audit: Callable[..., Audit], objects: LocalObjects, tmp_path: Path
) -> Load:
    """Writes files with the given faults, loads them, and returns the progress that was reported."""

    def go(*, probes: int = 1, written_probes: int | None = None, top: int = 5, **faults: Any) -> list[int]:
        audit = make_audit(probes=probes)
        written = {"rows": ROWS, "flagged": 3, "summary": SUMMARY, "probes": written_probes or probes}
        write_results(tmp_path, **(written | faults))
        reported: list[int] = []
        with sessions.begin() as session:
            held = claim(session, lane="gpu", owner="w")
            assert held is not None
            with objects.open(dataset_key(held.workspace_id, audit.dataset_id, "rows.parquet")) as dataset:
                load_results(
                    session,
                    held,
                    tmp_path,
                    dataset=dataset,
                    rows=ROWS,
                    probes=probes,
                    findings_top=top,
                    on_progress=reported.append,
                )
        return reported

    return go


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ({"rows": 39}, "39"),
        ({"rows": 41}, "row"),
        ({"written_probes": 2}, "strongest_probe"),
        ({"probes": 2, "written_probes": 1}, "probe_no"),
        ({"row": ROWS}, "row"),
        ({"rank": 0}, "rank"),
        ({"probe_no": 1}, "probe_no"),
        ({"cluster": -1}, "cluster"),
        ({"strongest_probe": 2}, "strongest_probe"),
        ({"side": "left"}, "sides"),
        ({"mu": float("nan")}, "finite"),
        ({"z": float("inf")}, "finite"),
        ({"p": "x"}, "contract"),
        ({"n": None}, "scores.parquet.*contract"),
        ({"traces": {"effect": float("inf")}}, "traces.parquet.*finite"),
        ({"traces": {"probe_no": 2}}, "traces.parquet.*probe_no"),
        ({"traces": {"step": None}}, "traces.parquet.*contract"),
        ({"baselines": {"row": 3}}, "order of the rows"),
        ({"baselines": {"tracin": "x"}}, "baselines.parquet"),
        ({"tokens": {"probe_no": 2}}, "tokens.parquet.*probe_no"),
        ({"tokens": {"share": float("nan")}}, "tokens.parquet.*finite"),
        ({"tokens": {"message": 2}}, "tokens.parquet.*outside the text"),
        ({"tokens": {"message": 0, "start": 0, "end": 2}}, "tokens.parquet.*outside the text"),
        ({"tokens": {"end": 99}}, "tokens.parquet"),
        ({"nearest": {"neighbour": ROWS}}, "nearest.parquet.*neighbour"),
        ({"nearest": {"similarity": None}}, "nearest.parquet.*contract"),
        ({"leave_out": "tokens.parquet"}, "no tokens.parquet"),
        ({"leave_out": "nearest.parquet"}, "no nearest.parquet"),
        ({"leave_out": "scores.parquet"}, "no scores.parquet"),
        ({"leave_out": "traces.parquet"}, "no traces.parquet"),
        ({"leave_out": "baselines.parquet"}, "no baselines.parquet"),
    ],
)
def test_what_does_not_fit_is_refused(
    load: Load, sessions: sessionmaker[Session], faults: dict[str, Any], says: str
) -> None:
    with pytest.raises(OutputError, match=says):
        load(**faults)
    with sessions() as session:
        for table in (Score, ScoreList, Finding):
            assert session.scalar(select(func.count()).select_from(table)) == 0


@pytest.mark.parametrize("fault", [{"rank": 5}, {"row": 39}])
def test_no_row_and_no_rank_stands_twice(load: Load, fault: dict[str, int]) -> None:
    with pytest.raises(UniqueViolation):
        load(**fault)


def test_each_probe_has_a_list_of_its_own_beside_the_headline(load: Load, sessions: sessionmaker[Session]) -> None:
    reported = load(probes=2, top=0)
    assert reported[-1] == score_count(ROWS, 2) == 3 * ROWS
    with sessions() as session:
        query = select(ScoreList.probe_no, func.count()).join(Score, Score.list_id == ScoreList.id)
        counts = session.execute(query.group_by(ScoreList.probe_no)).all()
        findings = session.scalars(select(Finding).order_by(Finding.row)).all()
    assert sorted(map(tuple, counts)) == [(0, ROWS), (1, ROWS), (2, ROWS)]
    # Flagged in any of the lists.
    assert [finding.row for finding in findings] == [0, 1, 2, 37, 38, 39]
    assert [(one["probe_no"], one["step"]) for one in findings[0].trace] == [(1, 2), (1, 9), (2, 2), (2, 9)]


def test_tokens_and_nearest_samples_are_kept_with_a_finding(load: Load, sessions: sessionmaker[Session]) -> None:
    load(probes=2, top=0)
    with sessions() as session:
        findings = {finding.row: finding for finding in session.scalars(select(Finding))}
    assert findings[2].tokens == [
        {
            "probe_no": number,
            "elsewhere": 0.125,
            "tokens": [
                {"message": 1, "start": 0, "end": 6, "share": 0.625},
                {"message": 1, "start": 7, "end": 8, "share": -0.25},
            ],
        }
        for number in (1, 2)
    ]
    assert findings[2].nearest == [
        {"neighbour": 3, "similarity": 1.0, "near_duplicate": True},
        {"neighbour": 4, "similarity": 0.5, "near_duplicate": False},
    ]
    assert (findings[ROWS - 1].tokens, findings[ROWS - 1].nearest) == (None, None)


LONG = "".join(chr(0x4E00 + (7919 * i) % 20_000) for i in range(20_000))
"""Hard to compress, and longer than what an index can hold."""


@pytest.mark.parametrize(
    ("group", "kept"),
    [
        (None, None), ("", ""), ("\\N", "\\N"), ("\\.", "\\."), ("a\n\\.\nb", "a\n\\.\nb"),
        ("tab\tand\rreturn", "tab\tand\rreturn"), ('say "it", twice', 'say "it", twice'), ("back\\\\n", "back\\\\n"),
        ("данные 😀", "данные 😀"), ("a\0b", "a\ufffdb"), (LONG, LONG),
    ],
    ids=range(11),
)  # fmt: skip
def test_groups_are_kept_as_they_are(
    load: Load, sessions: sessionmaker[Session], group: str | None, kept: str | None
) -> None:
    load(group=group)
    with sessions() as session:
        assert set(session.scalars(select(Score.group))) == {kept}
        assert session.scalar(select(func.count()).select_from(Score)) == ROWS


@pytest.mark.parametrize("number", [0.1, -0.0, 1e-300, 5e-324, 1.7976931348623157e308, 1 / 3, 12345678901234567.0])
def test_numbers_are_kept_to_the_last_digit(load: Load, sessions: sessionmaker[Session], number: float) -> None:
    load(mu=number, mu_low=None, mu_high=number, p=number)
    with sessions() as session:
        found = session.execute(select(Score.mu, Score.mu_low, Score.mu_high, Score.p).distinct()).all()
    assert [tuple(map(repr, one)) for one in found] == [(repr(number), "None", repr(number), repr(number))]


def test_one_probe_has_its_result_once() -> None:
    assert score_count(ROWS, 1) == ROWS
