"""Reading a dataset's rows.parquet, an open file: one row, some rows, a page. Its row n is the sample whose `row` is n.

Only the row groups that hold what is asked for are read, so a page costs the same wherever it lies. A row is
{row: int, messages: [{role, content}], extra: dict}.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import IO, Any

COLUMNS = ["row", "messages", "extra"]
"""The columns that make up a sample."""

PAGE_CHARACTERS = 8_000_000
"""A page ends after the row that passes this many characters of text, however many rows were asked for."""


ROWS_AT_ONCE = 256
"""Few enough that a row group's long texts are not all in memory, to read one of its rows."""


class RowNotFoundError(LookupError):
    """The dataset has no such row."""


@dataclass(frozen=True)
class Footer:
    """What a file's end says of its row groups, parsed."""

    metadata: Any
    """What pyarrow parsed it to, a pyarrow.parquet.FileMetaData."""
    starts: tuple[int, ...]
    """The first row of every row group, then the number of rows."""

    @property
    def groups(self) -> int:
        """How many row groups the file has."""
        return len(self.starts) - 1


def read_footer(file: IO[bytes]) -> Footer:
    """Parse the footer of a Parquet file."""
    metadata = _open(file).metadata
    groups = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    return Footer(metadata, tuple(accumulate(groups, initial=0)))


def read_row(file: IO[bytes], row: int, footer: Footer | None = None) -> dict[str, Any]:
    """Read one sample. Of its row group, only what lies before the row is decoded.

    Args:
        file: The dataset as Parquet, open for reading.
        row: Number of the row, from 0.
        footer: What `read_footer` found in the file; None: it is read.

    Raises:
        RowNotFoundError: The dataset has no such row.
    """
    footer = footer or read_footer(file)
    if not 0 <= row < footer.starts[-1]:
        raise RowNotFoundError(f"the dataset has no row {row}")
    group = bisect_right(footer.starts, row) - 1
    offset = row - footer.starts[group]
    with _open(file, footer) as parquet:
        for batch in parquet.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=COLUMNS, use_threads=False):
            if offset < len(batch):
                [sample] = batch.slice(offset, 1).to_pylist()
                return _sample(sample)
            offset -= len(batch)
    raise RowNotFoundError(f"the dataset has no row {row}")


def read_rows(file: IO[bytes], rows: Sequence[int]) -> list[dict[str, Any]]:
    """Read some samples in the order asked for; each row group is read once.

    Args:
        file: The dataset as Parquet, open for reading.
        rows: Numbers of the rows, from 0.

    Raises:
        RowNotFoundError: The dataset has not all of these rows.
    """
    wanted = set(rows)
    found: dict[int, dict[str, Any]] = {}
    footer = read_footer(file)
    with _open(file, footer) as parquet:
        for group, (start, end) in enumerate(pairwise(footer.starts)):
            here = [row - start for row in wanted if start <= row < end]
            if here:
                table = parquet.read_row_group(group, columns=COLUMNS, use_threads=False).take(here)
                found |= {sample["row"]: sample for sample in _samples(table)}
    for row in rows:
        if row not in found:
            raise RowNotFoundError(f"the dataset has no row {row}")
    return [found[row] for row in rows]


def page(file: IO[bytes], after_row: int | None, limit: int, footer: Footer | None = None) -> list[dict[str, Any]]:
    """Read a page of samples in the order of their rows; it is empty only where no row follows.

    Args:
        file: The dataset as Parquet, open for reading.
        after_row: The row before the first one; None: from the beginning.
        limit: How many rows to read at most; fewer come where their text is long.
        footer: What `read_footer` found in the file; None: it is read.
    """
    first = 0 if after_row is None else max(after_row + 1, 0)
    samples: list[dict[str, Any]] = []
    characters = 0
    footer = footer or read_footer(file)
    with _open(file, footer) as parquet:
        for group, (start, end) in enumerate(pairwise(footer.starts)):
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


def _open(file: IO[bytes], footer: Footer | None = None) -> Any:
    # Imported here since it takes half a second, which a starting API need not pay.
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, metadata=None if footer is None else footer.metadata, pre_buffer=True)


def _samples(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from map(_sample, batch.to_pylist())


def _sample(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "extra": json.loads(record["extra"])}
