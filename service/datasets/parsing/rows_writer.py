"""Writing rows.parquet: the columns of contract.ROWS_COLUMNS in zstd, in row groups small enough for pages."""

import queue
import threading
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.datasets.parsing.columns import Columns, strings_of
from service.datasets.parsing.turns import ROLES

GROUP_ROWS = 4096
"""The most rows of a row group."""

GROUP_BYTES = 2 * 2**20
"""A row group ends once it is larger than this: a page of the API reads at least one, and the footer lists all of them.
"""

GROWTH_ROWS = 1_000_000
"""Every this many rows, groups may have GROUP_ROWS more, so that the footer of a huge dataset stays small."""

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
"""The columns of rows.parquet: a sample, what else its record holds, and where in the original file it stands."""


class RowsWriter:
    """A writer that collects columns and writes a row group whenever one is full. Use it as a context manager.

    Encoding and compressing happen in a thread of their own, beside the parsing; an error there is raised by a later
    `add`, or by leaving the block.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Begin writing to a file."""
        self._file = pq.ParquetWriter(
            file,
            SCHEMA,
            compression="zstd",
            use_dictionary=["messages.list.element.role"],
            # Delta encoding shrinks evenly growing numbers to almost nothing.
            column_encoding=dict.fromkeys(("row", "start", "length"), "DELTA_BINARY_PACKED")
            | dict.fromkeys(("extra", "sha256"), "DELTA_LENGTH_BYTE_ARRAY"),
            write_statistics=["row"],
        )
        self._parts: list[Any] = []
        self._group_rows = self._bytes = 0
        self._rows = 0
        self._full: queue.Queue[Any] = queue.Queue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="rows-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._error is None:
            self._flush()
        self._full.put(None)
        self._thread.join()
        self._file.close()
        if kind is None and self._error is not None:
            raise self._error

    def add(self, columns: Columns, digests: bytes) -> None:
        """Append rows.

        Args:
            columns: The rows.
            digests: SHA-256 of each row's canonical messages, 32 bytes each.

        Raises:
            Exception: An earlier row group could not be written.
        """
        if self._error is not None:
            raise self._error
        part = self._part(columns, digests)
        while part.num_rows:
            space = GROUP_ROWS * (1 + self._rows // GROWTH_ROWS) - self._group_rows
            taken, part = part.slice(0, space), part.slice(space)
            self._parts.append(taken)
            self._group_rows += taken.num_rows
            self._rows += taken.num_rows
            self._bytes += taken.nbytes
            if taken.num_rows == space or self._bytes >= GROUP_BYTES:
                self._flush()

    def _part(self, columns: Columns, digests: bytes) -> Any:
        rows = len(columns)
        roles = pa.DictionaryArray.from_arrays(pa.array(columns.roles), pa.array(ROLES)).dictionary_decode()
        turns = pa.StructArray.from_arrays([roles, columns.contents], names=["role", "content"])
        return pa.record_batch(
            [
                pa.array(np.arange(self._rows, self._rows + rows)),
                pa.ListArray.from_arrays(pa.array(columns.bounds), turns, type=SCHEMA.field("messages").type),
                columns.extra_json,
                pa.nulls(rows, pa.int64()) if columns.starts is None else pa.array(columns.starts),
                pa.nulls(rows, pa.int64()) if columns.lengths is None else pa.array(columns.lengths),
                strings_of(np.arange(0, 64 * rows + 1, 64), digests.hex().encode()),
            ],
            schema=SCHEMA,
        )

    def _flush(self) -> None:
        if self._parts:
            # Writing takes less time than filling, so this seldom waits; and no third group is in memory.
            self._full.join()
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
            del table
            self._full.task_done()
