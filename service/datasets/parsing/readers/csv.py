"""Reading CSV: RFC 4180 with a header, commas, UTF-8 and strict quotes, with one row in memory."""

import csv
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from service.datasets.parsing.decompression import Limits
from service.datasets.parsing.refusal import Refusal
from service.datasets.parsing.strict_json import NUL_REASON, RecordError, shown_key

BATCH_ROWS = 128
"""Records that are handed on together."""


class Table(NamedTuple):
    """Records that follow one another, or why one could not be read."""

    places: list[int]
    """The number of each record's line, or its row number, as in Block."""
    records: list[dict[str, Any] | RecordError]


class CsvRows:
    """A CSV file: its header is read first, then its rows. `columns` are the header's names."""

    def __init__(self, pieces: Iterable[bytes], limits: Limits) -> None:
        """Read the header.

        Args:
            pieces: The text as it comes.
            limits: Limits of the upload.

        Raises:
            Refusal: `csv_invalid`, `line_too_long`, or `format_not_recognised` if the file is not text.
        """
        self._limits = limits
        self._read = 0
        """Bytes since the last complete row."""
        self._line = 0
        csv.field_size_limit(limits.line_bytes)
        self._reader = csv.reader(self._lines(pieces), strict=True)
        self._begin = 1
        self.columns = self._header()

    def tables(self) -> Iterator[Table]:
        """Read the rows. Raises Refusal `csv_invalid` or `line_too_long`."""
        table = Table([], [])
        size = 0
        while (cells := self._next()) is not None:
            if not cells:
                continue  # a blank line
            table.places.append(self._begin)
            table.records.append(self._record(cells))
            size += self._size
            if len(table.records) >= BATCH_ROWS or size >= 1 << 20:
                yield table
                table, size = Table([], []), 0
        yield table

    def _header(self) -> list[str]:
        try:
            cells = self._next()
            while cells == []:
                cells = self._next()
        except Refusal as refusal:
            if refusal.code == "csv_invalid":
                detail = "The file is neither JSON nor CSV in UTF-8. Upload JSONL, JSON, CSV or Parquet."
                raise Refusal("format_not_recognised", detail) from None
            raise
        names = cells or []
        seen: set[str] = set()
        for name in names:
            if "\0" in name:
                raise Refusal("format_not_recognised", "The file holds NUL characters, so it is not a text file.")
            if name in seen:
                detail = f"The header names the column {shown_key(name)} twice. Rename one."
                raise Refusal("csv_invalid", detail, pointer=f"line:{self._begin}")
            seen.add(name)
        return names

    def _next(self) -> list[str] | None:
        self._read = 0
        self._begin = self._line + 1
        try:
            cells = next(self._reader, None)
        except csv.Error as error:
            if "field larger" in str(error):
                self._too_long()
            raise Refusal(
                "csv_invalid",
                f"The row that begins on line {self._begin} is not valid CSV: {error}. Put a field that holds commas, "
                'quotes or line ends between quotes ("), and double each quote in it.',
                pointer=f"line:{self._begin}",
            ) from None
        self._size = self._read
        return cells

    def _record(self, cells: list[str]) -> dict[str, Any] | RecordError:
        if len(cells) != len(self.columns):
            return RecordError(f"has {len(cells)} fields, and the header has {len(self.columns)}")
        record: dict[str, Any] = dict(zip(self.columns, cells, strict=True))
        if any("\0" in cell for cell in cells):
            return RecordError(NUL_REASON)
        return record

    def _lines(self, pieces: Iterable[bytes]) -> Iterator[str]:
        pending = bytearray()
        for piece in pieces:
            head, newline, tail = piece.rpartition(b"\n")
            pending += head + newline if newline else tail
            if not newline:
                self._count(0, len(pending))
                continue
            for line in _split(bytes(pending)):
                yield self._text(line)
            pending = bytearray(tail)
        if pending:
            yield self._text(bytes(pending))

    def _text(self, line: bytes) -> str:
        self._line += 1
        self._count(len(line), 0)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise Refusal(
                "csv_invalid",
                f"Line {self._line} is not UTF-8 at byte {error.start + 1}. Save the file as UTF-8.",
                pointer=f"line:{self._line}",
            ) from None

    def _count(self, taken: int, pending: int) -> None:
        self._read += taken
        if self._read + pending > self._limits.line_bytes:
            self._too_long()

    def _too_long(self) -> None:
        detail = (
            f"The row that begins on line {self._begin} is longer than {self._limits.line_bytes} bytes. "
            "Look for a quote that is not closed."
        )
        raise Refusal("line_too_long", detail, pointer=f"line:{self._begin}")


def _split(text: bytes) -> list[bytes]:
    """Split into lines with their ends; a carriage return alone is no line end."""
    return [line + b"\n" for line in text.split(b"\n")[:-1]]
