"""Writing rows.parquet: the canonical columns of contract.ROWS_COLUMNS, zstd, in row groups small enough to page by."""

import queue
import threading
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from service.datasets.batch import Batch

GROUP_ROWS = 4096
GROUP_BYTES = 8 * 2**20
"""A row group ends after the batch that passes either; a page reads at least one, and the footer lists all of them."""

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
        self._file = pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=["messages.list.element.role"])
        self._batches: list[Any] = []
        self._group_rows = self._bytes = 0
        self._rows = 0
        self._full: queue.Queue[Any] = queue.Queue(WAITING_GROUPS)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="rows-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
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
        rows = len(batch)
        if not rows:
            return
        contents = pa.array(batch.contents, pa.string())
        turns = pa.StructArray.from_arrays([pa.array(batch.roles, pa.string()), contents], names=["role", "content"])
        ends = array("i", accumulate(batch.counts, initial=0))
        nothing = pa.nulls(rows, pa.int64())
        columns = [
            pa.array(range(self._rows, self._rows + rows), pa.int64()),
            pa.ListArray.from_arrays(_numbers(ends, pa.int32()), turns, type=SCHEMA.field("messages").type),
            pa.array(batch.extra_json, pa.string()),
            nothing if batch.starts is None else pa.array(batch.starts, pa.int64()),
            nothing if batch.lengths is None else pa.array(batch.lengths, pa.int64()),
            _hexadecimal(digests),
        ]
        added = pa.record_batch(columns, schema=SCHEMA)
        self._batches.append(added)
        self._rows += rows
        self._group_rows += rows
        self._bytes += added.nbytes
        if self._bytes >= GROUP_BYTES or self._group_rows >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._batches:
            self._full.put(pa.Table.from_batches(self._batches, schema=SCHEMA))
            self._batches = []
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


def _hexadecimal(digests: Sequence[bytes]) -> Any:
    text = b"".join(digests).hex().encode()
    offsets = array("i", range(0, len(text) + 1, 64))
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets), pa.py_buffer(text))
