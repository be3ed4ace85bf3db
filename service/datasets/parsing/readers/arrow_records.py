"""Turning Arrow record batches, from any kind of file, into records."""

import math
from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from service.datasets.parsing.decompression import Limits, check_size
from service.datasets.parsing.readers.csv import Table
from service.datasets.parsing.readers.json_types import NoJsonTypeError, as_json_has_it, holds, json_type
from service.datasets.parsing.refusal import Refusal
from service.datasets.parsing.strict_json import NUL_REASON, RecordError, holds_nul, shown_key

BATCH_ROWS = 64
"""Rows that are made into records at once; they are Python objects, and larger than their text."""

PART_BYTES = 8 * 2**20
"""Bytes of rows that are read at once, if their texts may be long; a text that they share counts in each."""

FOOTER_BYTES = 32 * 2**20
"""The largest footer of an Arrow or Parquet file that is read, since all of it is in memory at once."""

MAX_LEAVES = 2000
"""The most columns, nested ones included: each takes memory for every batch or row group."""

DAMAGES = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for a damaged file; the last one for names that are not UTF-8."""

_TURNS = ("messages", "conversations", "prompt", "completion")
"""Columns that may hold lists of turns."""


def next_valid(batches: Iterator[Any], row: int, damaged: Callable[[Exception, int], Refusal]) -> Any:
    """Read the next record batch, and check it.

    Args:
        batches: Record batches, as they are read from a file.
        row: The position of the batch's first row in the upload.
        damaged: Makes the refusal of a file that cannot be read beyond that row.

    Returns:
        The batch, or None after the last.

    Raises:
        Refusal: What `damaged` made.
        MemoryError: The batch needs more memory than the process may use.
    """
    try:
        batch = next(batches, None)
        if batch is not None:
            batch.validate(full=True)
    except MemoryError:
        raise
    except DAMAGES as error:
        raise damaged(error, row) from None
    return batch


class DecodedBytes:
    """Counts the bytes that come out of a file, and refuses a file that grows too much."""

    def __init__(self, stored: int, limits: Limits, came: Callable[[int], None]) -> None:
        """Start at 0.

        Args:
            stored: The file's size in bytes.
            limits: How large it may become.
            came: Called with each number of bytes that is counted.
        """
        self._stored = stored
        self._limits = limits
        self._came = came
        self._total = 0

    def add(self, size: int) -> None:
        """Count `size` bytes more. Raises Refusal decompression_limit."""
        self._total += size
        self._came(size)
        check_size(self._total, self._stored, self._limits)


def rows_at_once(size: int) -> int:
    """Return how many rows are read at once if one may have `size` bytes."""
    return max(1, min(BATCH_ROWS, PART_BYTES // max(size, 1)))


def longest(column: Any) -> int:
    """Return the bytes of the longest text of a column; 0 for a column of another type."""
    types = pa.types
    if isinstance(column, pa.DictionaryArray):
        return longest(column.dictionary)
    if types.is_string_view(column.type) or types.is_binary_view(column.type):
        # Views of 16 bytes, each of which begins with the length.
        lengths = np.frombuffer(column.buffers()[1], np.int32)[::4]
        return int(lengths[column.offset : column.offset + len(column)].max(initial=0))
    if types.is_string(column.type) or types.is_large_string(column.type):
        return pc.max(pc.binary_length(column)).as_py() or 0
    return 0


class Reading(NamedTuple):
    """What a reader of batches needs to know, and what it calls."""

    needed: Container[str]
    """Columns that become messages: a value in them that JSON cannot express refuses its row or the file."""
    left_out: Callable[[int, list[str]], None]
    """Called with a row and those of its columns in which a value that JSON cannot express became null."""
    came: Callable[[int], None]
    """Called with each number of bytes that were decompressed."""


class ArrowRecords:
    """What a schema says of records: the columns that can be read, and how their values become JSON's."""

    def __init__(self, schema: Any, unsupported: str) -> None:
        """Read a schema.

        Args:
            schema: The Arrow schema.
            unsupported: The code of a refusal for a type that JSON cannot express.
        """
        self.unreadable: dict[str, str] = {}
        """Columns of a type that JSON cannot express, and why."""
        self._unsupported = unsupported
        self._targets: dict[str, Any] = {}
        for field in schema:
            try:
                self._targets[field.name] = json_type(field.type)
            except NoJsonTypeError as error:
                self.unreadable[field.name] = str(error)
        self.readable = list(self._targets)
        self._floats = [
            field.name for field in schema if field.name in self._targets and holds(field.type, pa.types.is_floating)
        ]

    def table(self, batch: Any, row: int, reading: Reading, decoded: Callable[[int], None]) -> Table:
        """Read a few rows.

        Args:
            batch: A validated record batch; its unreadable columns are left out.
            row: The position of its first row in the upload.
            reading: The needed columns, and what is called on the way.
            decoded: Called with the bytes that the rows have without dictionaries and shared parts, before more is
                made of them; what it raises is raised.

        Raises:
            Refusal: The type code: bytes of a needed column are not UTF-8.
        """
        lost: dict[int, list[str]] = {}
        plain: dict[str, Any] = {}
        for name, target in self._targets.items():
            column = batch.column(name)
            try:
                plain[name] = as_json_has_it(column, target)
            except pa.ArrowException:
                if name in reading.needed:
                    raise Refusal(
                        self._unsupported,
                        f"The column {shown_key(name)} holds bytes that are not UTF-8, near row {row}. Leave it out.",
                    ) from None
                plain[name], indices = _value_by_value(column, target)
                for index in indices:
                    lost.setdefault(index, []).append(name)
        decoded(sum(column.nbytes for column in plain.values()))
        columns = {name: column.to_pylist() for name, column in plain.items()}
        for name in self._floats:
            if name in reading.needed:
                continue
            for index, value in enumerate(columns[name]):
                columns[name][index], left = _json_value(value)
                if left:
                    lost.setdefault(index, []).append(name)
        for index, names in lost.items():
            reading.left_out(row + index, names)
        records = [
            self._record(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)
        ]
        return Table(list(range(row, row + batch.num_rows)), records)

    def _record(self, record: dict[str, Any]) -> dict[str, Any] | RecordError:
        for name in _TURNS:
            if name in self._floats and _json_value(record[name])[1]:
                return RecordError(f"{shown_key(name)} holds NaN or an infinity, which is not JSON")
        if b"\\u0000" in orjson.dumps(record) and holds_nul(record):
            return RecordError(NUL_REASON)
        for name in _TURNS:
            turns = record.get(name)
            if isinstance(turns, list):
                # A struct has all its fields in every turn; those that a turn does not have are null.
                record[name] = [
                    {key: value for key, value in turn.items() if value is not None} if isinstance(turn, dict) else turn
                    for turn in turns
                ]
        return record


def _value_by_value(column: Any, target: Any) -> tuple[Any, list[int]]:
    """Return the column with null for bytes that are not UTF-8, and where those are."""
    values: list[Any] = []
    lost = []
    for index in range(len(column)):
        try:
            values += as_json_has_it(column.slice(index, 1), target).to_pylist()
        except pa.ArrowException:
            values.append(None)
            lost.append(index)
    return pa.array(values, target), lost


def _json_value(value: Any) -> tuple[Any, bool]:
    """Return the value with null for NaN and infinities, and whether there was one."""
    if isinstance(value, float):
        return (value, False) if math.isfinite(value) else (None, True)
    if isinstance(value, dict):
        inner = {key: _json_value(child) for key, child in value.items()}
        return {key: child for key, (child, _) in inner.items()}, any(left for _, left in inner.values())
    if isinstance(value, list):
        items = [_json_value(child) for child in value]
        return [child for child, _ in items], any(left for _, left in items)
    return value, False
