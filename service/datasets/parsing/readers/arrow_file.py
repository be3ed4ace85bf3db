"""Reading Arrow IPC: the stream, as `datasets.save_to_disk` writes it, and the file, which is Feather too.

A stream declares nothing before its batches, and a batch nothing before it is read: the contents are counted as they
come. Streams of one schema may follow each other, as the shards of a dataset do.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from service.datasets.parsing.decompression import Limits, check_size
from service.datasets.parsing.readers.arrow_records import (
    DAMAGES,
    FOOTER_BYTES,
    MAX_LEAVES,
    ArrowRecords,
    DecodedBytes,
    Reading,
    longest,
    next_valid,
    rows_at_once,
)
from service.datasets.parsing.readers.csv import Table
from service.datasets.parsing.readers.stored_file import StoredFile
from service.datasets.parsing.refusal import Refusal

STREAM_MAGIC = b"\xff\xff\xff\xff"
"""The first bytes of an Arrow stream's messages."""

FILE_MAGIC = b"ARROW1\0\0"
"""The first bytes of an Arrow file."""

_END = b"ARROW1"

MAX_BATCHES = 100_000
"""Batches of a file, whose footer may list the same one many times; a stream holds the bytes of each."""


class ArrowRows:
    """An Arrow file: its schema is checked first, then its rows are read. `columns` are the top-level names."""

    container = "arrow"
    name = "Arrow file"

    def __init__(self, descriptor: int, limits: Limits, max_rows: int) -> None:
        """Open the file and check its schema.

        Args:
            descriptor: The stored upload.
            limits: How large it may become.
            max_rows: The most rows that are accepted.

        Raises:
            Refusal: `arrow_invalid`.
        """
        self._stored = StoredFile(descriptor)
        self._limits = limits
        self._max_rows = max_rows
        self._source = pa.PythonFile(self._stored, mode="r")
        self._is_file = self._stored.read(len(FILE_MAGIC)) == FILE_MAGIC
        if self._is_file:
            self._footer()
        self._stored.seek(0)
        try:
            self._schema = self._open().schema
            self.columns = list(self._schema.names)
            self._judge()
            self._records = ArrowRecords(self._schema, "arrow_type_unsupported")
        except DAMAGES as error:
            raise _broken(error) from None
        self.unreadable = self._records.unreadable
        """Columns of a type that JSON cannot express, and why; `tables` leaves them out."""

    def tables(self, reading: Reading) -> Iterator[Table]:
        """Read the rows.

        Args:
            reading: The columns that become messages, and what is called on the way.

        Yields:
            Tables whose places are row numbers from 0.

        Raises:
            Refusal: `arrow_invalid`, `decompression_limit`, `parser_memory_limit` or `too_many_rows`.
        """
        row = stored = 0
        decoded = DecodedBytes(self._stored.size, self._limits, reading.came)
        batches = self._batches()
        while (batch := self._next(batches, row)) is not None:
            if row + batch.num_rows > self._max_rows:
                raise Refusal("too_many_rows", f"The dataset has more than {self._max_rows} rows. Split it.", 413)
            # What no row refers to has been decompressed too.
            stored += sum(map(_own_bytes, batch.columns))
            check_size(stored, self._stored.size, self._limits)
            at_once = rows_at_once(sum(map(longest, batch.columns)))
            for start in range(0, batch.num_rows, at_once):
                part = batch.slice(start, at_once)
                yield self._records.table(part, row, reading, decoded.add)
                row += part.num_rows

    def _next(self, batches: Iterator[Any], row: int) -> Any:
        try:
            return next_valid(batches, row, _broken)
        except MemoryError:
            detail = "A batch of the Arrow file needs more memory than one upload may use. Write smaller batches."
            raise Refusal("parser_memory_limit", detail) from None

    def _footer(self) -> None:
        tail = self._stored.tail(4 + len(_END))
        length = int.from_bytes(tail[:4], "little")
        if not tail.endswith(_END) or length > self._stored.size:
            raise Refusal(
                "arrow_invalid", "The Arrow file ends too early, or its end is damaged. Upload the whole file."
            )
        if length > FOOTER_BYTES:
            detail = f"The Arrow file's footer has {length} bytes, and {FOOTER_BYTES} are taken. Write larger batches."
            raise Refusal("arrow_invalid", detail)

    def _judge(self) -> None:
        if sum(map(_leaves, self._schema.types)) > MAX_LEAVES:
            raise Refusal("arrow_invalid", f"An Arrow file may have {MAX_LEAVES} columns, nested ones included.")
        if len(set(self.columns)) != len(self.columns):
            raise Refusal("arrow_invalid", "Two columns of the Arrow file have one name. Rename one.")

    def _open(self, readable: list[int] | None = None) -> Any:
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=readable)
        return (pa.ipc.open_file if self._is_file else pa.ipc.open_stream)(self._source, options=options)

    def _batches(self) -> Iterator[Any]:
        """Record batches of the readable columns. Raises ArrowException, OSError and Refusal arrow_invalid."""
        readable = [self.columns.index(name) for name in self._records.readable]
        if self._is_file:
            reader = self._open(readable)
            if reader.num_record_batches > MAX_BATCHES:
                detail = f"An Arrow file may have {MAX_BATCHES} batches. Write larger ones."
                raise Refusal("arrow_invalid", detail)
            yield from map(reader.get_batch, range(reader.num_record_batches))
            return
        self._stored.seek(0)
        while self._stored.tell() < self._stored.size:
            reader = self._open()
            if not reader.schema.equals(self._schema):
                raise Refusal(
                    "arrow_invalid", "The Arrow file holds streams with different columns. Upload each alone."
                )
            yield from (batch.select(readable) for batch in reader)
            if self._stored.cut:
                detail = "The Arrow stream has no end mark, as where a file is cut. Upload the whole file."
                raise Refusal("arrow_invalid", detail)


def _leaves(type: Any) -> int:
    if pa.types.is_dictionary(type):
        return _leaves(type.value_type)
    return 1 + sum(_leaves(type.field(index).type) for index in range(type.num_fields))


def _own_bytes(column: Any) -> int:
    """Return the bytes of a column without its dictionary, which many batches share."""
    return int((column.indices if isinstance(column, pa.DictionaryArray) else column).nbytes)


def _broken(error: Exception, row: int | None = None) -> Refusal:
    where = "" if row is None else f" after row {row}"
    kind = type(error).__name__
    return Refusal("arrow_invalid", f"The Arrow file cannot be read{where} ({kind}). Write it again.")
