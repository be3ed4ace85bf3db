"""Reads a dataset's rows.parquet by row groups, of which no more than one is in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), nullable=False),
        pa.field("extra", pa.string(), nullable=False),
    ]
)
"""The columns of an exported Parquet file of samples."""


@dataclass(frozen=True)
class RowGroup:
    """The rows from `first` to before `end`."""

    parquet: Any
    number: int
    first: int
    end: int

    def samples(self) -> list[dict[str, Any]]:
        """Return row, messages and extra of each sample; extra is the text of a JSON object."""
        table = self.parquet.read_row_group(self.number, columns=SAMPLES_SCHEMA.names, use_threads=False)
        return list(table.select(SAMPLES_SCHEMA.names).to_pylist())

    def spans(self) -> list[tuple[int, int]] | None:
        """Return (start, length) of each row in the decompressed upload; None if the upload has no lines."""
        table = self.parquet.read_row_group(self.number, columns=["start", "length"], use_threads=False)
        if pc.any(pc.is_null(table["start"])).as_py():
            return None
        return list(zip(table["start"].to_pylist(), table["length"].to_pylist(), strict=True))


def row_groups(file: IO[bytes]) -> Iterator[RowGroup]:
    """Yield the row groups of an open rows.parquet, in order."""
    parquet = pq.ParquetFile(file)
    first = 0
    for number in range(parquet.metadata.num_row_groups):
        end = first + parquet.metadata.row_group(number).num_rows
        yield RowGroup(parquet, number, first, end)
        first = end
