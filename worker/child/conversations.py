"""The conversations of a dataset, read from its file as they are asked for: as Python objects they fill the memory."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Conversation = Sequence[Mapping[str, str]]

COLUMN = "messages"
"""Of rows.parquet; no other is read."""

ROWS_AT_ONCE = 1_000
"""Rows that are Python objects at the same time when all are read in order."""


class Conversations:
    """The conversations in a rows.parquet."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Args:
            path: The rows.parquet.

        Raises:
            OSError: It cannot be read.
            ValueError: It is not Parquet.
        """
        self._file = pq.ParquetFile(path, pre_buffer=False)
        metadata = self._file.metadata
        groups = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        self._starts = list(accumulate(groups, initial=0))
        self._held: tuple[int, pa.ChunkedArray] | None = None
        """The row group that was asked for last, and its conversations."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Conversation]:
        """Yield the conversations in order."""
        for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=[COLUMN], use_threads=False):
            yield from batch[COLUMN].to_pylist()

    def __getitem__(self, row: int) -> Conversation:
        """Return the conversation of a row.

        Args:
            row: Counted from 0.

        Raises:
            IndexError: The dataset has no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"the dataset has no row {row}")
        group = bisect_right(self._starts, row) - 1
        if self._held is None or self._held[0] != group:
            self._held = None  # Not two at a time.
            self._held = group, self._file.read_row_group(group, columns=[COLUMN], use_threads=False)[COLUMN]
        found: Conversation = self._held[1][row - self._starts[group]].as_py()
        return found
