"""Reading Parquet files. The footer is checked before anything else is read; then they are read batch by batch."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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

MAGIC = b"PAR1"
"""The first and the last bytes of a Parquet file."""

BUFFER_BYTES = 1 << 20
"""Bytes that are read at a time of each column, so that a row group of any size needs no more memory."""

MAX_ROW_GROUPS = 100_000
"""The most row groups, since the footer describes every column of each."""


class ParquetRows:
    """A Parquet file: its footer is checked first, then its rows are read. `columns` are the top-level names."""

    container = "parquet"
    name = "Parquet file"

    def __init__(self, descriptor: int, limits: Limits, max_rows: int) -> None:
        """Open the file and check its footer.

        Args:
            descriptor: The stored upload.
            limits: How large it may become.
            max_rows: The most rows that are accepted.

        Raises:
            Refusal: `parquet_invalid`, `decompression_limit` or `too_many_rows`.
        """
        self._stored = StoredFile(descriptor)
        self._limits = limits
        self._source = pa.PythonFile(self._stored, mode="r")
        self._footer()
        try:
            self._file = pq.ParquetFile(self._source, buffer_size=BUFFER_BYTES, pre_buffer=False)
            self._schema = self._file.schema_arrow
            self.columns = list(self._schema.names)
            self._judge(max_rows)
            self._records = ArrowRecords(self._schema, "parquet_type_unsupported")
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
            Refusal: `parquet_invalid` or `decompression_limit`.
        """
        row = 0
        decoded = DecodedBytes(self._stored.size, self._limits, reading.came)
        batches = self._batches()
        while (batch := next_valid(batches, row, _broken)) is not None:
            yield self._records.table(batch, row, reading, decoded.add)
            row += batch.num_rows
        if row != self._file.metadata.num_rows:
            raise _broken(ValueError(), row)

    def _batches(self) -> Iterator[Any]:
        """Record batches of the readable columns. Raises ArrowException and OSError."""
        footer, readable = self._file.metadata, self._records.readable
        texts = [name for name in readable if _is_text(self._schema.field(name).type)]
        # Pages hold a dictionary's texts once, however many rows have them: it tells how long they may be.
        as_stored = pq.ParquetFile(
            self._source, buffer_size=BUFFER_BYTES, pre_buffer=False, read_dictionary=texts, metadata=footer
        )
        for group in range(footer.num_row_groups):
            rows = footer.row_group(group).num_rows
            if not rows:
                continue
            first = next(as_stored.iter_batches(1, [group], columns=texts, use_threads=False)) if texts else None
            size = sum(map(longest, first.columns)) if first is not None else 0
            yield from self._file.iter_batches(rows_at_once(size), [group], columns=readable, use_threads=False)

    def _footer(self) -> None:
        tail = self._stored.tail(8)
        if self._stored.size < 12 or not tail.endswith(MAGIC):
            detail = "The Parquet file ends too early, or its end is damaged. Upload the whole file."
            raise Refusal("parquet_invalid", detail)
        length = int.from_bytes(tail[:4], "little")
        if length > min(FOOTER_BYTES, self._stored.size - 12):
            detail = f"The Parquet file's footer has {length} bytes, more than are there or than {FOOTER_BYTES}."
            raise Refusal("parquet_invalid", detail)

    def _judge(self, max_rows: int) -> None:
        """Check what the footer declares, before a page is read."""
        footer = self._file.metadata
        if footer.num_rows > max_rows:
            raise Refusal("too_many_rows", f"The dataset has more than {max_rows} rows. Split it.", 413)
        if footer.num_columns > MAX_LEAVES or footer.num_row_groups > MAX_ROW_GROUPS:
            detail = (
                f"A Parquet file may have {MAX_LEAVES} columns and {MAX_ROW_GROUPS} row groups, nested ones included."
            )
            raise Refusal("parquet_invalid", detail)
        if len(set(self.columns)) != len(self.columns):
            raise Refusal("parquet_invalid", "Two columns of the Parquet file have one name. Rename one.")
        declared = rows = 0
        extents = []
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            rows += group.num_rows
            if not group.num_rows:
                continue  # it has no pages, and writers put anything where they would begin
            for index in range(group.num_columns):
                chunk = group.column(index)
                begin = chunk.data_page_offset
                if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                    begin = min(begin, chunk.dictionary_page_offset)
                end = begin + chunk.total_compressed_size
                if begin < len(MAGIC) or chunk.total_compressed_size < 0 or end > self._stored.size:
                    raise Refusal("parquet_invalid", "A column of the Parquet file lies outside of the file.")
                declared += max(chunk.total_uncompressed_size, 0)
                extents.append((begin, end))
        if rows != footer.num_rows:
            raise Refusal("parquet_invalid", "The row groups of the Parquet file have more or fewer rows than it says.")
        check_size(declared, self._stored.size, self._limits)
        extents.sort()
        for (_, end), (begin, _) in pairwise(extents):
            # How 42.parquet makes petabytes of 42 kilobytes.
            if begin < end:
                detail = "Columns of the Parquet file share their bytes, as only a decompression bomb's do."
                raise Refusal("parquet_invalid", detail)


def _is_text(type: Any) -> bool:
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_binary(type))


def _broken(error: Exception, row: int | None = None) -> Refusal:
    where = "" if row is None else f" after row {row}"
    kind = type(error).__name__
    return Refusal("parquet_invalid", f"The Parquet file cannot be read{where} ({kind}). Write it again.")
