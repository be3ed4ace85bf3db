"""Writing rows.parquet: the canonical columns of contract.ROWS_COLUMNS, zstd, in row groups small enough to page by."""

import queue
import threading
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from service.datasets.batch import Batch

GROUP_ROWS = 4096
GROUP_BYTES = 8 * 2**20
"""A row group ends after the batch that passes either; a page reads at least one, and the footer lists all of them."""

GROWTH_ROWS = 1_000_000
"""After each so many rows, groups may have GROUP_ROWS more, so that the footer of a huge dataset stays small."""

PART_ROWS = 1024
PART_BYTES = 2**20
"""Rows become columns at either, since each conversion has a price of its own."""

WAITING_GROUPS = 1
"""Row groups that are full while another is written."""

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
    """Collects batches and writes a row group whenever one is full; used as a context manager.

    Encoding and compressing happen in a thread of their own, beside the parsing; what goes wrong there is raised by a
    later `add`, or by leaving the block.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = pq.ParquetWriter(
            file, SCHEMA, compression="zstd", use_dictionary=["messages.list.element.role"], write_statistics=["row"]
        )
        self._held: list[tuple[Batch, Sequence[bytes]]] = []
        """What is not yet a part of the row group."""
        self._held_rows = self._held_bytes = 0
        self._parts: list[Any] = []
        self._group_rows = self._bytes = 0
        self._rows = 0
        self._full: queue.Queue[Any] = queue.Queue(WAITING_GROUPS)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="rows-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._error is None:
            if self._held_rows:
                self._convert()
            self._flush()
        self._full.put(None)
        self._thread.join()
        self._file.close()
        if kind is None and self._error is not None:
            raise self._error

    def add(self, batch: Batch, digests: Sequence[bytes]) -> None:
        """Appends the batch's rows. `digests` are their SHA-256."""
        if self._error is not None:
            raise self._error
        self._held.append((batch, digests))
        self._held_rows += len(batch)
        self._held_bytes += sum(map(len, batch.canonical))
        if self._held_rows >= PART_ROWS or self._held_bytes >= PART_BYTES:
            self._convert()
            full = GROUP_ROWS * (1 + self._rows // GROWTH_ROWS)
            if self._bytes >= GROUP_BYTES or self._group_rows >= full:
                self._flush()

    def _convert(self) -> None:
        """Makes a part of the row group of what is held."""
        batches = [batch for batch, _ in self._held]
        digests = b"".join(chain.from_iterable(digests for _, digests in self._held))
        rows = self._held_rows
        self._held, self._held_rows, self._held_bytes = [], 0, 0

        def of_all(name: str) -> list[Any]:
            return list(chain.from_iterable(getattr(batch, name) for batch in batches))

        def numbers_of_all(name: str) -> Any:
            if any(getattr(batch, name) is None for batch in batches):
                return pa.nulls(rows, pa.int64())
            return _numbers(array("q", of_all(name)), pa.int64())

        turns = pa.StructArray.from_arrays(
            [pa.array(of_all("roles"), pa.string()), pa.array(of_all("contents"), pa.string())],
            names=["role", "content"],
        )
        ends = _numbers(array("i", accumulate(of_all("counts"), initial=0)), pa.int32())
        columns = [
            _numbers(array("q", range(self._rows, self._rows + rows)), pa.int64()),
            pa.ListArray.from_arrays(ends, turns, type=SCHEMA.field("messages").type),
            pa.array(of_all("extra_json"), pa.string()),
            numbers_of_all("starts"),
            numbers_of_all("lengths"),
            _hexadecimal(digests),
        ]
        part = pa.record_batch(columns, schema=SCHEMA)
        self._parts.append(part)
        self._rows += rows
        self._group_rows += rows
        self._bytes += part.nbytes

    def _flush(self) -> None:
        if self._parts:
            self._full.put(pa.Table.from_batches(self._parts, schema=SCHEMA))
            self._parts = []
            self._group_rows = self._bytes = 0

    def _write(self) -> None:
        while (table := self._full.get()) is not None:
            if self._error is None:
                try:
                    self._file.write_table(table, row_group_size=table.num_rows)
                except BaseException as error:  # raised again where the work was given
                    self._error = error


def _numbers(values: "array[int]", type: Any) -> Any:
    return pa.Array.from_buffers(type, len(values), [None, pa.py_buffer(values)])


def _hexadecimal(digests: bytes) -> Any:
    text = digests.hex().encode()
    offsets = array("i", range(0, len(text) + 1, 64))
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(text))
