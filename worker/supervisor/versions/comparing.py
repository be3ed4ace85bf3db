"""What has changed from one rows.parquet to another: contract.versions.VersionChanges says by which rule.

Digests are read in pieces, and messages of those rows alone that have no equal in the other file. What is kept in
memory is a byte a row, and one bucket of the matching.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.contract.versions import ChangedRow, VersionChanges
from worker.supervisor.versions.matching import BUCKET_ROWS, Matcher, Pairs

PIECE_ROWS = 100_000
"""Rows that are compared at once."""

LISTED = 100
"""Rows of each kind that are named."""

SEARCHED_AT_ONCE = 1_000_000
"""Rows of the mask that are searched at once for changed ones, so that few positions are in memory."""

Mask = NDArray[np.bool_]


def compare_rows(
    old: IO[bytes],
    new: IO[bytes],
    *,
    replaces_id: str,
    scratch: Path,
    go_on: Callable[[], None] = lambda: None,
    bucket_rows: int = BUCKET_ROWS,
) -> VersionChanges:
    """Compare the rows of two versions.

    Args:
        old: rows.parquet of the version before.
        new: rows.parquet of this version.
        replaces_id: Id of the version before.
        scratch: A folder for files without a name.
        go_on: Called between pieces of the work; what it raises is raised.
        bucket_rows: How many rows are matched at a time.
    """
    files = (pq.ParquetFile(old), pq.ParquetFile(new))
    left = tuple(np.ones(file.metadata.num_rows, np.bool_) for file in files)
    kept = moved = 0
    with Matcher(scratch, sum(map(len, left)), bucket_rows) as matcher:
        for number, file in enumerate(files):
            for batch in file.iter_batches(PIECE_ROWS, columns=["row", "sha256"], use_threads=False):
                go_on()
                digests = bytes.fromhex("".join(batch["sha256"].to_pylist()))
                matcher.add(digests, batch["row"].to_numpy(), new=bool(number))
        for pairs in matcher.pairs():
            go_on()
            kept += len(pairs.old)
            moved += int(np.count_nonzero(pairs.old != pairs.new))
            _take(left, pairs)
    changed = 0
    first = np.empty((0, 2), np.int64)
    with Matcher(scratch, sum(int(np.count_nonzero(mask)) for mask in left), bucket_rows) as matcher:
        for number, file in enumerate(files):
            for digests, rows in _prompts(file, left[number], go_on):
                matcher.add(digests, rows, new=bool(number))
        for pairs in matcher.pairs():
            go_on()
            changed += len(pairs.old)
            first = np.concatenate([first, np.column_stack(pairs)])
            first = first[np.argsort(first[:, 1])[:LISTED]]
            _take(left, pairs)
    return VersionChanges(
        replaces_id=replaces_id,
        kept=kept,
        moved=moved,
        changed=changed,
        removed=int(np.count_nonzero(left[0])),
        added=int(np.count_nonzero(left[1])),
        first_changed=[ChangedRow(before=before, after=after) for before, after in first.tolist()],
        first_removed=_first(left[0]),
        first_added=_first(left[1]),
    )


def _take(left: tuple[Mask, ...], pairs: Pairs) -> None:
    """Rows that have found their partner are no longer left."""
    left[0][pairs.old] = False
    left[1][pairs.new] = False


def _prompts(file: Any, wanted: Mask, go_on: Callable[[], None]) -> Iterator[tuple[bytes, list[int]]]:
    """Digests of the prompts of those rows, a row group at a time. Rows without a prompt are left out."""
    first = 0
    for number in range(file.metadata.num_row_groups):
        end = first + file.metadata.row_group(number).num_rows
        here = np.flatnonzero(wanted[first:end])
        if len(here):
            go_on()
            messages = file.read_row_group(number, columns=["messages"], use_threads=False)["messages"]
            digests: list[bytes] = []
            rows: list[int] = []
            for row, turns in zip(here.tolist(), messages.take(pa.array(here)).to_pylist(), strict=True):
                if len(turns) > 1:
                    digests.append(_digest([[turn["role"], turn["content"]] for turn in turns[:-1]]))
                    rows.append(first + row)
            if rows:
                yield b"".join(digests), rows
        first = end


def _digest(prompt: list[list[str]]) -> bytes:
    return hashlib.sha256(json.dumps(prompt).encode()).digest()


def _first(mask: Mask) -> list[int]:
    """The first LISTED positions that are set."""
    found: list[int] = []
    for start in range(0, len(mask), SEARCHED_AT_ONCE):
        found += (np.flatnonzero(mask[start : start + SEARCHED_AT_ONCE])[: LISTED - len(found)] + start).tolist()
        if len(found) == LISTED:
            break
    return found
