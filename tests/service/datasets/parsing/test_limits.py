"""Limits of what one upload may cost: columns, turns, empty parts of compressed data, processor time."""

import gzip
import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from service.datasets.parsing import decompression
from service.datasets.parsing.arrow.line_shape import learn
from service.datasets.parsing.records import MAX_COLUMNS, MAX_TURNS
from tests.support.dataset_records import chats, gzipped, jsonl, turn
from tests.support.parser_runs import MIB, run


def parquet(columns: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize("container", ["csv", "parquet"])
def test_a_table_of_too_many_columns_is_refused_once_at_its_header(container: str, tmp_path: Path) -> None:
    names = ["prompt", "completion", *(f"c{number}" for number in range(MAX_COLUMNS - 2))]

    def upload(names: list[str]) -> bytes:
        if container == "csv":
            return ",".join(names).encode() + b"\n" + b",".join([b"a"] * len(names)) + b"\n"
        return parquet({name: ["a"] for name in names})

    assert run(upload(names), tmp_path / "rows.parquet")["outcome"] == "parsed"
    report = run(upload([*names, "more"]), tmp_path / "rows.parquet")
    assert report["code"] == f"{container}_invalid"
    assert "1001 columns" in report["detail"]
    assert "Leave some out" in report["detail"]


def test_a_header_of_very_many_columns_is_judged_in_one_pass(tmp_path: Path) -> None:
    header = ",".join(f"c{number}" for number in range(150_000)).encode() + b"\n"
    report = run(header, tmp_path / "rows.parquet", max_line_bytes=16 * MIB)
    assert (report["code"], "150000 columns" in report["detail"]) == ("csv_invalid", True)


def test_no_shape_is_learnt_from_records_of_very_many_keys() -> None:
    wide = json.dumps({"prompt": "a", "completion": "b"} | {f"c{number}": 1 for number in range(200_000)}).encode()
    assert learn([wide] * 3, "prompt_completion", None, None) is None


@pytest.mark.parametrize("reader", ["columns", "batches", "one by one"])
def test_a_record_of_too_many_turns_is_named_with_what_to_do(reader: str, tmp_path: Path) -> None:
    def talk(turns: int) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [turn("user", "a"), turn("assistant", "b")] * (turns // 2)
        if reader == "batches":
            messages = [message | {"name": "x"} for message in messages]
        return {"messages": messages} | ({"n": 10**30} if reader == "one by one" else {})

    lines = [talk(2)] * 40
    assert run(jsonl([*lines, talk(MAX_TURNS), *lines]), tmp_path / "rows.parquet")["outcome"] == "parsed"
    report = run(jsonl([*lines, talk(MAX_TURNS + 2), *lines]), tmp_path / "rows.parquet")
    assert report["errors"] == [
        {
            "pointer": "line:41",
            "reason": "has 1002 turns, and a record can have 1000; split the conversation into several",
        }
    ]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_empty_parts_of_compressed_data_are_bounded(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompression, "EMPTY_PARTS", 100)
    compress = zstd.compress if encoding == "zstd" else gzipped
    records = chats(300).splitlines(keepends=True)
    with_text = b"".join(compress(b"") + compress(line) for line in records)
    assert run(with_text, tmp_path / "rows.parquet")["rows"] == 300
    report = run(compress(b"") * 102 + compress(chats(3)), tmp_path / "rows.parquet")
    assert (report["code"], report["status"]) == ("decompression_limit", 413)
    assert "empty parts" in report["detail"]
    assert run(compress(b"") * 90 + compress(chats(3)), tmp_path / "rows.parquet")["rows"] == 3


PARSE_AND_TELL = """
import resource, sys
from service.datasets.parsing.cpu_limit import CpuLimit
limit = CpuLimit(60, 2**20)
limits = [resource.getrlimit(resource.RLIMIT_CPU)]
for count in (2**19, 2**19, 5 * 2**20):
    limit.grant(count)
    limits.append(resource.getrlimit(resource.RLIMIT_CPU))
print(limits)
"""


def test_processor_time_is_granted_by_the_bytes_that_came() -> None:
    told = subprocess.run([sys.executable, "-c", PARSE_AND_TELL], capture_output=True, text=True, check=True).stdout
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    assert told.strip() == str([(60, hard), (60, hard), (61, hard), (66, hard)])


def test_bytes_count_as_they_come_and_as_they_are_decompressed(tmp_path: Path) -> None:
    text, table = chats(300), parquet({"prompt": ["a"] * 50, "completion": ["b" * 50] * 50})
    packed = gzip.compress(text)
    for upload, least in ((text, 2 * len(text)), (packed, len(packed) + len(text)), (table, len(table) + 50 * 51)):
        counts: list[int] = []
        run(upload, tmp_path / "rows.parquet", came=counts.append)
        assert sum(counts) >= least
