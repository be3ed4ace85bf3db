"""Reading a dataset's rows.parquet, an open file: one row, some rows, a page. Its row n is the sample whose `row` is n.

Only the row groups that hold what is asked for are read, so a page costs the same wherever it lies. A row is
{row: int, messages: [{role, content}], extra: dict}.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import IO, Any

COLUMNS = ["row", "messages", "extra"]

PAGE_CHARACTERS = 8_000_000
"""A page ends after the row that passes this many characters of text, however many rows were asked for."""


class RowNotFoundError(LookupError):
    """The dataset has no such row."""


def read_row(file: IO[bytes], row: int) -> dict[str, Any]:
    """One row. Raises RowNotFoundError."""
    return read_rows(file, [row])[0]


def read_rows(file: IO[bytes], rows: Sequence[int]) -> list[dict[str, Any]]:
    """The rows in the order asked for; each row group is read once. Raises RowNotFoundError."""
    wanted = set(rows)
    found: dict[int, dict[str, Any]] = {}
    with _open(file) as parquet:
        for group, (start, end) in enumerate(pairwise(_starts(parquet))):
            here = [row - start for row in wanted if start <= row < end]
            if here:
                table = parquet.read_row_group(group, columns=COLUMNS, use_threads=False).take(here)
                found |= {sample["row"]: sample for sample in _samples(table)}
    for row in rows:
        if row not in found:
            raise RowNotFoundError(f"the dataset has no row {row}")
    return [found[row] for row in rows]


def page(file: IO[bytes], after_row: int | None, limit: int) -> list[dict[str, Any]]:
    """At most `limit` rows after `after_row` (None: from the first), in order; fewer where their text is long.

    Empty only when no row follows.
    """
    first = 0 if after_row is None else max(after_row + 1, 0)
    samples: list[dict[str, Any]] = []
    characters = 0
    with _open(file) as parquet:
        for group, (start, end) in enumerate(pairwise(_starts(parquet))):
            if end <= first:
                continue
            table = parquet.read_row_group(group, columns=COLUMNS, use_threads=False)
            offset = max(first - start, 0)
            for sample in _samples(table.slice(offset, limit - len(samples))):
                samples.append(sample)
                characters += sum(len(message["content"]) for message in sample["messages"])
                if len(samples) >= limit or characters >= PAGE_CHARACTERS:
                    return samples
    return samples


def _open(file: IO[bytes]) -> Any:
    # Imported here since it takes half a second, which a starting API need not pay.
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, pre_buffer=True)


def _starts(parquet: Any) -> list[int]:
    """The first row of every row group, then the number of rows."""
    starts = [0]
    for group in range(parquet.metadata.num_row_groups):
        starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
    return starts


def _samples(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=256):
        for sample in batch.to_pylist():
            yield {**sample, "extra": json.loads(sample["extra"])}
