"""From a Parquet file to records. Nothing of it is read before its footer has been judged, and then batch by batch."""

import math
import os
from collections.abc import Callable, Container, Iterator
from itertools import pairwise
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from service.datasets.parsing.decompression import Limits, check_size
from service.datasets.parsing.readers.csv import Table
from service.datasets.parsing.readers.json_types import NoJsonTypeError, holds, json_type, json_values
from service.datasets.parsing.refusal import Refusal
from service.datasets.parsing.strict_json import NUL_REASON, RecordError, holds_nul, parse_record, shown_key

MAGIC = b"PAR1"
BATCH_ROWS = 64
"""Few, since a dictionary can make each as long as the longest text there is."""
BUFFER_BYTES = 1 << 20
"""Read at a time of each column, so that a row group of any size needs no more."""

FOOTER_BYTES = 32 * 2**20
MAX_LEAVES = 2000
MAX_ROW_GROUPS = 100_000

_TURNS = ("messages", "conversations")


class ParquetRows:
    """The footer, judged; then the rows. `columns` are the names at the top level."""

    def __init__(self, descriptor: int, limits: Limits, max_rows: int) -> None:
        """Raises Refusal: parquet_invalid, decompression_limit, too_many_rows."""
        self._size = os.fstat(descriptor).st_size
        self._limits = limits
        self._source = pa.PythonFile(_Reader(descriptor, self._size), mode="r")
        self._footer(descriptor)
        try:
            self._file = pq.ParquetFile(self._source, buffer_size=BUFFER_BYTES, pre_buffer=False)
            self._schema = self._file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise _broken(error) from None
        self._judge(max_rows)
        self.columns = list(self._schema.names)
        self.unreadable: dict[str, str] = {}
        """Columns of a type for which JSON has no form, and why; `tables` leaves them out."""
        self._targets: dict[str, Any] = {}
        for field in self._schema:
            try:
                self._targets[field.name] = json_type(field.type)
            except NoJsonTypeError as error:
                self.unreadable[field.name] = str(error)
        self._floats = [
            field.name
            for field in self._schema
            if field.name in self._targets and holds(field.type, pa.types.is_floating)
        ]

    def tables(
        self, needed: Container[str], left_out: Callable[[int, list[str]], None], came: Callable[[int], None]
    ) -> Iterator[Table]:
        """Read the rows by their position from 0.

        Args:
            needed: Columns that become messages: a value of theirs for which JSON has no form refuses its row or the
                file.
            left_out: Told of rows with columns in which a value for which JSON has no form became null.
            came: Told of bytes that were decompressed.

        Raises:
            Refusal: parquet_invalid, decompression_limit.
        """
        row = decoded = 0
        columns = list(self._targets)
        batches = self._file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    break
                batch.validate(full=True)
            except MemoryError:
                raise
            except (pa.ArrowException, OSError) as error:
                raise _broken(error, row) from None
            came(batch.nbytes)
            decoded += batch.nbytes
            check_size(decoded, self._size, self._limits)
            yield Table(list(range(row, row + batch.num_rows)), self._records(batch, row, needed, left_out))
            row += batch.num_rows
        if row != self._file.metadata.num_rows:
            raise _broken(ValueError(), row)

    def _footer(self, descriptor: int) -> None:
        tail = os.pread(descriptor, 8, max(self._size - 8, 0))
        if self._size < 12 or not tail.endswith(MAGIC):
            detail = "The Parquet file ends too early, or its end is damaged. Upload the whole file."
            raise Refusal("parquet_invalid", detail)
        length = int.from_bytes(tail[:4], "little")
        if length > min(FOOTER_BYTES, self._size - 12):
            detail = f"The Parquet file's footer has {length} bytes, more than are there or than {FOOTER_BYTES}."
            raise Refusal("parquet_invalid", detail)

    def _judge(self, max_rows: int) -> None:
        """What the footer declares, before a page is read."""
        footer = self._file.metadata
        if footer.num_rows > max_rows:
            raise Refusal("too_many_rows", f"The dataset has more than {max_rows} rows. Split it.", 413)
        if footer.num_columns > MAX_LEAVES or footer.num_row_groups > MAX_ROW_GROUPS:
            detail = (
                f"A Parquet file may have {MAX_LEAVES} columns and {MAX_ROW_GROUPS} row groups, nested ones included."
            )
            raise Refusal("parquet_invalid", detail)
        if len(set(self._schema.names)) != len(self._schema.names):
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
                if begin < len(MAGIC) or chunk.total_compressed_size < 0 or end > self._size:
                    raise Refusal("parquet_invalid", "A column of the Parquet file lies outside of the file.")
                declared += max(chunk.total_uncompressed_size, 0)
                extents.append((begin, end))
        if rows != footer.num_rows:
            raise Refusal("parquet_invalid", "The row groups of the Parquet file have more or fewer rows than it says.")
        check_size(declared, self._size, self._limits)
        extents.sort()
        for (_, end), (begin, _) in pairwise(extents):
            # How 42.parquet makes petabytes of 42 kilobytes.
            if begin < end:
                detail = "Columns of the Parquet file share their bytes, as only a decompression bomb's do."
                raise Refusal("parquet_invalid", detail)

    def _records(
        self, batch: Any, row: int, needed: Container[str], left_out: Callable[[int, list[str]], None]
    ) -> list[dict[str, Any] | RecordError]:
        columns = {}
        lost: dict[int, list[str]] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            target = self._targets[name]
            try:
                columns[name] = json_values(column, target)
            except pa.ArrowException:
                if name in needed:
                    raise Refusal(
                        "parquet_type_unsupported",
                        f"The column {shown_key(name)} holds bytes that are no UTF-8, near row {row}. Leave it out.",
                    ) from None
                columns[name] = []
                for index in range(len(column)):
                    try:
                        columns[name] += json_values(column.slice(index, 1), target)
                    except pa.ArrowException:
                        columns[name].append(None)
                        lost.setdefault(index, []).append(name)
        for name in self._floats:
            if name in needed:
                continue
            for index, value in enumerate(columns[name]):
                columns[name][index], left = _json_value(value)
                if left:
                    lost.setdefault(index, []).append(name)
        for index, names in lost.items():
            left_out(row + index, names)
        return [self._record(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]

    def _record(self, record: dict[str, Any]) -> dict[str, Any] | RecordError:
        for name in _TURNS:
            if name in self._floats and _json_value(record[name])[1]:
                return RecordError(f"{shown_key(name)} holds NaN or an infinity, which is not JSON")
        if b"\\u0000" in orjson.dumps(record) and holds_nul(record):
            return RecordError(NUL_REASON)
        for name in _TURNS:
            turns = record.get(name)
            if isinstance(turns, str):
                try:
                    record[name] = parse_record(turns.encode())
                except RecordError as error:
                    return RecordError(f"{shown_key(name)} is no JSON list of turns: {error}")
            elif isinstance(turns, list):
                # A struct has all its fields in every turn; those that a turn does not have are null.
                record[name] = [
                    {key: value for key, value in turn.items() if value is not None} if isinstance(turn, dict) else turn
                    for turn in turns
                ]
        return record


class _Reader:
    """The file by its own offsets: its descriptor may share its position with whoever writes."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._at = 0
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._at, 0)
        data = os.pread(self._descriptor, left if size < 0 else min(size, left), self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def _broken(error: Exception, row: int | None = None) -> Refusal:
    where = "" if row is None else f" after row {row}"
    kind = type(error).__name__
    return Refusal("parquet_invalid", f"The Parquet file cannot be read{where} ({kind}). Write it again.")


def _json_value(value: Any) -> tuple[Any, bool]:
    """The value with null for NaN and infinities, and whether there was one."""
    if isinstance(value, float):
        return (value, False) if math.isfinite(value) else (None, True)
    if isinstance(value, dict):
        inner = {key: _json_value(child) for key, child in value.items()}
        return {key: child for key, (child, _) in inner.items()}, any(left for _, left in inner.values())
    if isinstance(value, list):
        items = [_json_value(child) for child in value]
        return [child for child, _ in items], any(left for _, left in items)
    return value, False
