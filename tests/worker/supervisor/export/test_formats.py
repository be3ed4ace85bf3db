"""What an export says can be read back, in every format, and is what the database and the upload say."""

import csv
import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from service.contract.results import ScoreRow
from service.store.tables import Audit, Score, ScoreList
from tests.support.export_bench import Bench
from tests.support.exportable import jsonl

FIELDS = list(ScoreRow.model_fields)

TEXTS = ['=HYPERLINK("http://x")', 'a,b"c"\r\nd', "\u202e \u2028 \U0001f600", "-1", "plain"]


def upload(rows: int) -> bytes:
    return b"".join(
        json.dumps(
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": f"{TEXTS[row % 5]} {row}"},
                    {"role": "assistant", "content": TEXTS[(row + 1) % 5]},
                ],
                "n": 2**70,
                "note": "=1",
            },
            ensure_ascii=False,
        ).encode()
        + b"\n"
        for row in range(rows)
    )


def sample(row: int) -> dict[str, Any]:
    record = json.loads(upload(row + 1).splitlines()[row])
    return {"messages": record.pop("messages"), "extra": record}


def scores_of(bench: Bench, audit: Audit) -> list[dict[str, Any]]:
    with bench.sessions() as session:
        query = select(*(ScoreList.probe_no if name == "probe_no" else getattr(Score, name) for name in FIELDS))
        query = query.join(ScoreList, ScoreList.id == Score.list_id).where(ScoreList.audit_id == audit.id)
        return [dict(score) for score in session.execute(query.order_by(ScoreList.probe_no, Score.rank)).mappings()]


def rows_of_csv(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def from_cell(name: str, cell: str) -> Any:
    """A score's value as its CSV cell has it."""
    if name in ("side", "group"):
        return cell.removeprefix("'") or None
    if name == "flagged":
        return {"true": True, "false": False}[cell]
    if name in ("probe_no", "row", "rank", "n", "strongest_probe", "cluster"):
        return int(cell)
    return float(cell) if cell else None


def approximately(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parquet holds z as the database does, in four bytes or eight: compare seven digits of it."""
    return [{name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in r.items()} for r in records]


class TestScores:
    @pytest.fixture
    def audit(self, bench: Bench) -> Audit:
        return bench.audit(jsonl(60), range(7), probes=2)

    def test_jsonl_is_every_score_of_every_probe_by_rank(self, bench: Bench, audit: Audit) -> None:
        export = bench.export(audit, "scores")
        found = [json.loads(line) for line in bench.run(export).splitlines()]
        assert found == scores_of(bench, audit)
        assert [list(record) for record in found] == [FIELDS] * 180
        assert bench.row(export).rows == 180

    def test_csv(self, bench: Bench, audit: Audit) -> None:
        content = bench.run(bench.export(audit, "scores", "csv"))
        assert content.startswith((",".join(FIELDS) + "\r\n").encode())
        found = rows_of_csv(content)
        assert [{name: from_cell(name, row[name]) for name in FIELDS} for row in found] == scores_of(bench, audit)
        assert {row["group"] for row in found} == {"forum", "'=SUM(1)", ""}
        # Numbers are no text: a negative one stays a number.
        assert found[0]["mu"] == "-1.0"

    def test_parquet(self, bench: Bench, audit: Audit) -> None:
        table = pq.read_table(io.BytesIO(bench.run(bench.export(audit, "scores", "parquet"))))
        assert table.schema.names == FIELDS
        assert approximately(table.to_pylist()) == approximately(scores_of(bench, audit))

    def test_more_than_are_read_at_once(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, audit: Audit) -> None:
        monkeypatch.setattr("worker.supervisor.export.content.SCORES_AT_ONCE", 7)
        found = [json.loads(line) for line in bench.run(bench.export(audit, "scores")).splitlines()]
        assert found == scores_of(bench, audit)


class TestFlagged:
    """Numbers and text of the flagged samples, in the order of the upload."""

    FLAGGED = (17, 3, 40, 59)

    @pytest.fixture
    def audit(self, bench: Bench) -> Audit:
        return bench.audit(upload(60), self.FLAGGED)

    def expected(self, bench: Bench, audit: Audit) -> list[dict[str, Any]]:
        flagged = sorted((score for score in scores_of(bench, audit) if score["flagged"]), key=lambda s: s["row"])
        return [{**score, **sample(score["row"])} for score in flagged]

    def test_jsonl(self, bench: Bench, audit: Audit) -> None:
        content = bench.run(bench.export(audit, "flagged"))
        assert [json.loads(line) for line in content.splitlines()] == self.expected(bench, audit)

    def test_csv(self, bench: Bench, audit: Audit) -> None:
        export = bench.export(audit, "flagged", "csv")
        found = rows_of_csv(bench.run(export))
        expected = self.expected(bench, audit)
        assert bench.row(export).rows == len(found) == 4
        for row, record in zip(found, expected, strict=True):
            assert list(row) == [*FIELDS, "prompt", "answer", "messages", "extra"]
            assert json.loads(row["messages"]) == record["messages"]
            assert json.loads(row["extra"]) == record["extra"]
            assert {name: from_cell(name, row[name]) for name in FIELDS} == {name: record[name] for name in FIELDS}
            # The prompt begins with the system's turn, so the formula stands on a line of its own within it.
            prompt = "\n\n".join(turn["content"] for turn in record["messages"][:-1])
            assert row["prompt"] == prompt.replace("\n=", "\n'=").replace("\n-", "\n'-")
            answer = record["messages"][-1]["content"]
            assert row["answer"] == ("'" + answer if answer[0] in "=-" else answer)
        assert any(row["answer"].startswith("'=") for row in found) or any("\n'=" in row["prompt"] for row in found)

    def test_parquet(self, bench: Bench, audit: Audit) -> None:
        table = pq.read_table(io.BytesIO(bench.run(bench.export(audit, "flagged", "parquet"))))
        found = [{**record, "extra": json.loads(record["extra"])} for record in table.to_pylist()]
        assert approximately(found) == approximately(self.expected(bench, audit))

    def test_of_no_flagged_sample(self, bench: Bench) -> None:
        audit = bench.audit(upload(60), [])
        assert bench.run(bench.export(audit, "flagged")) == b""
        assert len(bench.run(bench.export(audit, "flagged", "csv")).splitlines()) == 1
        table = pq.read_table(io.BytesIO(bench.run(bench.export(audit, "flagged", "parquet"))))
        assert (table.num_rows, table.schema.names) == (0, [*FIELDS, "messages", "extra"])


class TestCleaned:
    @pytest.fixture
    def audit(self, bench: Bench) -> Audit:
        return bench.audit(upload(60), [0, 7, 59])

    KEPT = tuple(row for row in range(60) if row not in (0, 7, 59))

    def test_csv(self, bench: Bench, audit: Audit) -> None:
        found = rows_of_csv(bench.run(bench.export(audit, format="csv")))
        assert [list(row) for row in found] == [["row", "prompt", "answer", "messages", "extra"]] * 57
        read = [
            (int(row["row"]), {"messages": json.loads(row["messages"]), "extra": json.loads(row["extra"])})
            for row in found
        ]
        assert read == [(row, sample(row)) for row in self.KEPT]

    def test_parquet(self, bench: Bench, audit: Audit) -> None:
        found = pq.read_table(io.BytesIO(bench.run(bench.export(audit, format="parquet")))).to_pylist()
        read = [
            (record["row"], {"messages": record["messages"], "extra": json.loads(record["extra"])}) for record in found
        ]
        assert read == [(row, sample(row)) for row in self.KEPT]
