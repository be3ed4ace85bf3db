"""Writing rows.parquet: the canonical columns of contract.ROWS_COLUMNS, zstd, in row groups small enough to page by."""

import json
from typing import IO, Any, Self

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from service.datasets.lines import Line
from service.datasets.records import Sample

GROUP_ROWS = 4096
GROUP_BYTES = 8 * 2**20
"""A row group ends at either; a page reads at least one, and the footer lists all of them."""

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), nullable=False),
        pa.field("extra", pa.string(), nullable=False),
        pa.field("start", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)


class RowsWriter:
    """Collects rows and writes a row group whenever one is full; used as a context manager."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=["messages.list.element.role"])
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def add(self, row: int, sample: Sample, line: Line, sha256: str) -> None:
        columns = self._columns
        columns["row"].append(row)
        columns["messages"].append(sample.messages)
        columns["extra"].append(_as_json(sample.extra))
        columns["start"].append(line.start)
        columns["length"].append(len(line.content))
        columns["sha256"].append(sha256)
        self._bytes += len(line.content)
        if self._bytes >= GROUP_BYTES or len(columns["row"]) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._columns["row"]:
            self._file.write_table(pa.table(self._columns, schema=SCHEMA))
            self._columns = {name: [] for name in SCHEMA.names}
            self._bytes = 0


def _as_json(extra: dict[str, Any]) -> str:
    try:
        return orjson.dumps(extra).decode()
    except TypeError:  # an integer above 64 bits
        return json.dumps(extra, ensure_ascii=False, separators=(",", ":"))
