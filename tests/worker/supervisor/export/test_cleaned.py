"""Cleaned data: an upload without the lines of some samples, every other byte of it as it was."""

import gzip
import hashlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.store.objects import dataset_key
from tests.support.export_bench import Bench
from tests.support.exportable import jsonl

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
BLANK = st.sampled_from([b"", b" ", b"\t", b"   ", b"\r"])


@st.composite
def lines(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A line without its end, and whether it is a record."""
    if draw(st.integers(0, 5)) == 0:
        return draw(BLANK), False
    record = {
        "messages": [{"role": "user", "content": draw(TEXT)}, {"role": "assistant", "content": draw(TEXT)}],
        draw(st.sampled_from(["source", "ключ", "n"])): draw(st.one_of(TEXT, st.integers(), st.none())),
    }
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " :\t")]))
    text = json.dumps(record, ensure_ascii=draw(st.booleans()), separators=separators)
    return draw(st.sampled_from([b"", b" ", b"\t"])) + text.encode() + draw(BLANK), True


@st.composite
def uploads(draw: st.DrawFn) -> tuple[list[bytes], set[int], bool, bool]:
    """Lines with their ends, the numbers of records that are flagged, whether there is a BOM, whether it is gzip."""
    drawn = [*draw(st.lists(lines(), min_size=1, max_size=12)), draw(lines().filter(lambda line: line[1]))]
    ends = [draw(st.sampled_from([b"\n", b"\r\n"])) for _ in drawn]
    if draw(st.booleans()):
        ends[-1] = b""
    records = [at for at, (_, is_record) in enumerate(drawn) if is_record]
    flagged = draw(st.sets(st.integers(0, len(records) - 1)))
    whole = [line + end for (line, _), end in zip(drawn, ends, strict=True)]
    return whole, {records[number] for number in flagged}, draw(st.booleans()), draw(st.booleans())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(upload=uploads())
def test_the_remaining_lines_are_the_originals_byte_for_byte(
    bench: Bench, upload: tuple[list[bytes], set[int], bool, bool]
) -> None:
    whole, flagged_lines, with_mark, compressed = upload
    mark = b"\xef\xbb\xbf" if with_mark else b""
    original = mark + b"".join(whole)
    records = [at for at, line in enumerate(whole) if line.strip()]
    audit = bench.audit(
        gzip.compress(original) if compressed else original, {records.index(at) for at in flagged_lines}
    )
    content = bench.run(bench.export(audit))
    assert content == mark + b"".join(line for at, line in enumerate(whole) if at not in flagged_lines)


def test_nothing_flagged_leaves_the_file_as_it_was(bench: Bench) -> None:
    upload = jsonl(9000)
    audit = bench.audit(upload, [])
    export = bench.export(audit)
    assert bench.run(export) == upload
    row = bench.row(export)
    assert (row.rows, row.bytes, row.sha256) == (9000, len(upload), hashlib.sha256(upload).hexdigest())


def test_over_several_row_groups_and_gzip_members(bench: Bench) -> None:
    upload = jsonl(10_000)
    flagged = {0, 1, 4095, 4096, 8191, 8192, 9999}
    half = len(upload) // 2
    members = gzip.compress(upload[:half]) + gzip.compress(upload[half:]) + b"\0" * 512
    content = bench.run(bench.export(bench.audit(members, flagged)))
    assert content == b"".join(line for row, line in enumerate(upload.splitlines(keepends=True)) if row not in flagged)


def test_another_q_than_the_audits(bench: Bench) -> None:
    """It flags as the audit does: what leans against the behaviour stays."""
    changes = [
        (3, {"q": 0.2, "side": None}),
        (5, {"q": 0.2, "side": "against"}),
        (7, {"q": 0.21, "side": "toward"}),
        (8, {"q": 0.19, "side": "both"}),
        (9, {"q": None}),
    ]
    others = [(row, {"q": 0.9}) for row in range(40) if row not in {0, 3, 5, 7, 8, 9}]
    upload = jsonl(40)
    audit = bench.audit(upload, [0], changes=[*changes, *others])
    lines = upload.splitlines(keepends=True)
    assert bench.run(bench.export(audit, max_q=0.2)) == b"".join(
        line for row, line in enumerate(lines) if row not in {0, 3, 8}
    )
    assert bench.run(bench.export(audit, max_q=0.001)) == upload


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_the_same_export_twice_has_the_same_bytes(bench: Bench, format: str) -> None:
    audit = bench.audit(jsonl(5000), range(100))
    assert bench.run(bench.export(audit, format=format)) == bench.run(bench.export(audit, format=format))


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_kept_samples_that_were_not_measured_to_their_end_are_counted(bench: Bench, format: str) -> None:
    cut = [(row, {"tokens_left_out": 3 if row in (1, 5, 4400) else 0}) for row in range(4500)]
    audit = bench.audit(jsonl(4500), [1, 2], changes=[*cut, (7, {"tokens_left_out": None})])
    export = bench.export(audit, format=format)
    bench.run(export)
    assert bench.row(export).rows_truncated == 2, "row 1 is flagged, and nobody knows of row 7, which has no tokens"
    scores = bench.export(audit, "scores")
    bench.run(scores)
    assert bench.row(scores).rows_truncated is None


def test_of_an_audit_that_did_not_count_them_nobody_knows(bench: Bench) -> None:
    audit = bench.audit(jsonl(30), [3], changes=[(row, {"tokens_left_out": None}) for row in range(30)])
    export = bench.export(audit)
    bench.run(export)
    assert bench.row(export).rows_truncated is None


def test_an_original_that_was_changed_is_no_export(bench: Bench) -> None:
    upload = jsonl(40)
    audit = bench.audit(upload, [3])
    with bench.objects.create(dataset_key(bench.workspace_id, audit.dataset_id, "original")) as file:
        file.write(upload.replace(b"Answer 7.", b"Answer 8."))
    export = bench.export(audit)
    bench.supervisor().run_due("io")
    job = bench.job(export)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "input_missing"
    assert "SHA-256" in job.error["message"]
    assert bench.stored(export) == []


class TestWithoutLines:
    """What has no lines of its own comes as records in the form that training takes."""

    @pytest.fixture
    def audit(self, bench: Bench) -> Any:
        records = [
            {"prompt": f"P{row}", "completion": f"C{row}", "n": 2**70 + row, "messages": [row], "ключ": "я"}
            for row in range(40)
        ]
        upload = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        # `messages` in an extra column: only a format that is named takes the record so.
        return bench.audit(upload, [2], format="prompt_completion")

    def test_jsonl(self, bench: Bench, audit: Any) -> None:
        key = dataset_key(bench.workspace_id, audit.dataset_id, "rows.parquet")
        table = pq.read_table(bench.objects.path(key))
        nothing = pa.nulls(len(table), pa.int64())
        for name in ("start", "length"):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(name), nothing)
        pq.write_table(table, bench.objects.path(key))
        found = [json.loads(line) for line in bench.run(bench.export(audit)).splitlines()]
        assert found == [
            {
                "messages": [{"role": "user", "content": f"P{row}"}, {"role": "assistant", "content": f"C{row}"}],
                "n": 2**70 + row,
                "extra_messages": [row],
                "ключ": "я",
            }
            for row in range(40)
            if row != 2
        ]
