"""What has changed between two files of rows, against a rule written down in plain Python."""

import hashlib
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.versions import ChangedRow, VersionChanges
from tests.support.rows import ROWS_SCHEMA
from worker.supervisor.versions.comparing import LISTED, compare_rows

Row = tuple[str, ...]
"""The contents of its turns."""


def write(path: Path, rows: list[Row], group: int = 3) -> Path:
    records = []
    for number, texts in enumerate(rows):
        turns = [{"role": "user", "content": text} for text in texts[:-1]]
        turns.append({"role": "assistant", "content": texts[-1]})
        digest = hashlib.sha256(json.dumps(turns).encode()).hexdigest()
        records.append(
            {"row": number, "messages": turns, "extra": "{}", "start": None, "length": None, "sha256": digest}
        )
    pq.write_table(pa.Table.from_pylist(records, ROWS_SCHEMA), path, row_group_size=group)
    return path


def compare(folder: Path, old: list[Row], new: list[Row], **options: Any) -> VersionChanges:
    with (
        write(folder / "old.parquet", old).open("rb") as before,
        write(folder / "new.parquet", new).open("rb") as after,
    ):
        return compare_rows(before, after, replaces_id="ds_old", scratch=folder, **options)


def by_the_rule(old: list[Row], new: list[Row]) -> VersionChanges:
    """As the contract says it, row by row."""

    def pair(left: list[int], right: list[int], key: Any) -> list[tuple[int, int]]:
        waiting: dict[Any, list[int]] = defaultdict(list)
        for row in left:
            waiting[key(old[row])].append(row)
        return [(waiting[key(new[row])].pop(0), row) for row in right if waiting[key(new[row])]]

    kept = pair(list(range(len(old))), list(range(len(new))), lambda row: row)
    removed = [row for row in range(len(old)) if row not in {one for one, _ in kept}]
    added = [row for row in range(len(new)) if row not in {one for _, one in kept}]
    changed = pair(
        [row for row in removed if len(old[row]) > 1], [row for row in added if len(new[row]) > 1], lambda row: row[:-1]
    )
    removed = [row for row in removed if row not in {one for one, _ in changed}]
    added = [row for row in added if row not in {one for _, one in changed}]
    return VersionChanges(
        replaces_id="ds_old",
        kept=len(kept),
        moved=sum(before != after for before, after in kept),
        changed=len(changed),
        added=len(added),
        removed=len(removed),
        first_changed=[ChangedRow(before=b, after=a) for b, a in sorted(changed, key=lambda one: one[1])][:LISTED],
        first_added=added[:LISTED],
        first_removed=removed[:LISTED],
    )


def test_each_kind_of_change(tmp_path: Path) -> None:
    old = [("Tea?", "Green."), ("Tea?", "Green."), ("Bread?", "Rye."), ("Car?", "None."), ("Bike?", "Blue.")]
    new = [("Sea?", "Deep."), ("Tea?", "Green."), ("Bread?", "Wheat."), ("Bike?", "Blue.")]
    found = compare(tmp_path, old, new)
    assert found == VersionChanges(
        replaces_id="ds_old",
        kept=2,
        moved=2,
        changed=1,
        added=1,
        removed=2,
        first_changed=[ChangedRow(before=2, after=2)],
        first_added=[0],
        first_removed=[1, 3],
    )
    assert found == by_the_rule(old, new)


def test_one_turn_alone_is_no_prompt(tmp_path: Path) -> None:
    found = compare(tmp_path, [("Once.",)], [("Twice.",)])
    assert (found.changed, found.added, found.removed) == (0, 1, 1)


def test_only_the_first_are_listed(tmp_path: Path) -> None:
    old = [(f"Question {n}?", "Yes.") for n in range(150)]
    new = [*((f"Question {n}?", "No.") for n in range(149, -1, -1)), *((f"More {n}?", "Yes.") for n in range(120))]
    found = compare(tmp_path, old, new)
    assert (found.changed, found.added, found.removed) == (150, 120, 0)
    assert found.first_changed == [ChangedRow(before=149 - n, after=n) for n in range(LISTED)]
    assert found.first_added == list(range(150, 150 + LISTED))
    assert found == by_the_rule(old, new)


texts = st.sampled_from("abc")
row_lists = st.lists(st.one_of(st.tuples(texts), st.tuples(texts, texts), st.tuples(texts, texts, texts)), max_size=25)


@settings(max_examples=150, deadline=None)
@given(row_lists, row_lists, st.integers(1, 60))
def test_any_two_files_follow_the_rule(
    tmp_path_factory: pytest.TempPathFactory, old: list[Row], new: list[Row], bucket_rows: int
) -> None:
    found = compare(tmp_path_factory.mktemp("rows"), old, new, bucket_rows=bucket_rows)
    assert found == by_the_rule(old, new)
    assert found.kept + found.changed + found.added == len(new)
    assert found.kept + found.changed + found.removed == len(old)
    assert found.kept == (Counter(old) & Counter(new)).total()


def write_many(path: Path, numbers: np.ndarray[Any, Any]) -> None:
    """Rows whose prompts are the numbers below 10**9, and whose digests and answers are the numbers."""
    with pq.ParquetWriter(path, ROWS_SCHEMA, compression="zstd") as writer:
        for first in range(0, len(numbers), 50_000):
            part = numbers[first : first + 50_000].tolist()
            texts = [text for number in part for text in (f"Question {number % 10**9}?", f"{number} " * 20)]
            turns = pa.StructArray.from_arrays(
                [pa.array(["user", "assistant"] * len(part)), pa.array(texts)], names=["role", "content"]
            )
            columns = [
                pa.array(range(first, first + len(part))),
                pa.ListArray.from_arrays(pa.array(range(0, len(texts) + 1, 2), pa.int32()), turns),
                pa.array(["{}"] * len(part)),
                pa.nulls(len(part), pa.int64()),
                pa.nulls(len(part), pa.int64()),
                pa.array([hashlib.sha256(str(number).encode()).hexdigest() for number in part]),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=ROWS_SCHEMA), row_group_size=4096)


MEASURED = """
import json, re, sys
from pathlib import Path
from worker.supervisor.versions.comparing import compare_rows

def kib(what):
    return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))

before = kib("VmRSS")
folder = Path(sys.argv[1])
with (folder / "old").open("rb") as old, (folder / "new").open("rb") as new:
    found = compare_rows(old, new, replaces_id="ds_old", scratch=folder)
print(json.dumps([found.model_dump(), kib("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_rows_take_little_memory(tmp_path: Path) -> None:
    rows = 1_000_000
    old = np.arange(rows)
    new = np.concatenate([old[1000:], np.arange(rows, rows + 500)])
    new[::10] += 10**9  # another answer to the same prompt
    write_many(tmp_path / "old", old)
    write_many(tmp_path / "new", new)
    told = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, check=True).stdout
    found, grown_kib = json.loads(told)
    changed = len(range(0, rows - 1000, 10))
    assert (found["changed"], found["kept"], found["moved"]) == (changed, *[rows - 1000 - changed] * 2)
    assert (found["added"], found["removed"]) == (500, 1000)
    # The rows' texts alone have 300 MiB.
    assert grown_kib < 400 * 1024
