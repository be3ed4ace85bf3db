"""The child process that parses one upload: bytes on stdin, rows.parquet to a file descriptor, a JSON report on stdout.

`python -m service.datasets.parsing.parser OPTIONS` with OPTIONS a JSON object of the fields of `Options`. It limits its
own memory and CPU time before it reads a byte, opens no connection, and is given no secret. The report is one of
{outcome: "parsed", container, encoding, format, rows, columns, statistics, notices}, {outcome: "invalid", bad, errors:
[{pointer, reason}]}, {outcome: "refused", code, detail, status, pointer}, {outcome: "crashed", error}. It holds no text
of a sample, except short values of extra columns in the statistics.
"""

import errno
import gc
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

from service.datasets.notice_kinds import LEFT_OUT_COLUMNS, LEFT_OUT_VALUES, SKIPPED_MARK
from service.datasets.parsing.containers import BOM, begin, recognise_container
from service.datasets.parsing.cpu_limit import CpuLimit
from service.datasets.parsing.decompression import MAGIC_BYTES, Limits, decompress, recognise_encoding
from service.datasets.parsing.ingest import Ingest, unknown_format
from service.datasets.parsing.readers.arrow_file import FILE_MAGIC as ARROW_FILE_MAGIC
from service.datasets.parsing.readers.arrow_file import STREAM_MAGIC as ARROW_STREAM_MAGIC
from service.datasets.parsing.readers.arrow_file import ArrowRows
from service.datasets.parsing.readers.arrow_records import Reading
from service.datasets.parsing.readers.csv import CsvRows
from service.datasets.parsing.readers.json_array import split_array, split_objects
from service.datasets.parsing.readers.jsonl import split_lines
from service.datasets.parsing.readers.parquet import MAGIC as PARQUET_MAGIC
from service.datasets.parsing.readers.parquet import ParquetRows
from service.datasets.parsing.records import (
    MAX_COLUMNS,
    Mapping,
    describe,
    recognise,
    required_columns,
    text_columns,
)
from service.datasets.parsing.refusal import Refusal
from service.datasets.parsing.rows_writer import RowsWriter
from service.datasets.parsing.strict_json import shown_key

READ_BYTES = 1 << 18
"""Bytes that are read from the upload at a time."""

STORED: dict[bytes, type[ParquetRows] | type[ArrowRows]] = {
    PARQUET_MAGIC: ParquetRows,
    ARROW_FILE_MAGIC: ArrowRows,
    ARROW_STREAM_MAGIC: ArrowRows,
}
"""Formats that are read from the stored file, by their first bytes."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the child. Files are descriptors that it inherits."""

    output: int
    """rows.parquet, open for writing."""
    original: int
    """The upload as it came, complete once stdin has ended; only read, and only by offset."""
    scratch: int
    """An empty file to write and read."""
    format: str
    """A record format, or `auto`."""
    mapping: dict[str, str | None] | None
    """The fields of records.Mapping."""
    encoding: str
    """What the client declared: `gzip`, `zstd`, or `identity`, which declares nothing."""
    max_text_bytes: int
    max_line_bytes: int
    max_ratio: int
    max_rows: int
    memory_bytes: int
    cpu_seconds: int
    """CPU time granted at once; more is granted as bytes come."""
    cpu_bytes_per_second: int


def parse(
    chunks: Iterator[bytes], options: Options, came: Callable[[int], None] = lambda count: None
) -> dict[str, Any]:
    """Read an upload, and write its rows to `options.output` on the way.

    Args:
        chunks: The upload as it comes.
        options: Its files and limits.
        came: Called with each number of bytes that came, or that were decompressed.

    Returns:
        The report.
    """
    try:
        with (
            os.fdopen(options.output, "wb", closefd=False) as file,
            os.fdopen(options.scratch, "w+b", closefd=False) as scratch,
            RowsWriter(file) as writer,
        ):
            return _Parsing(_counted(chunks, came), options, writer, scratch, came).report()
    except Refusal as refusal:
        return _refused(refusal)


class _Parsing:
    """The parsing of one upload: first its format is recognised, then its records are read."""

    def __init__(
        self,
        chunks: Iterator[bytes],
        options: Options,
        writer: RowsWriter,
        scratch: IO[bytes],
        came: Callable[[int], None],
    ) -> None:
        self._options = options
        self._came = came
        self._writer = writer
        self._scratch = scratch
        self._limits = Limits(options.max_line_bytes, options.max_text_bytes, options.max_ratio)
        self._mapping = None if options.mapping is None else Mapping(**options.mapping)  # type: ignore[arg-type]
        first = b""
        while len(first) < max(MAGIC_BYTES, *map(len, STORED)) and (chunk := next(chunks, b"")):
            first += chunk
        self._chunks = chain([first], chunks)
        self._encoding = recognise_encoding(first)
        if options.encoding not in ("identity", self._encoding) and first:
            raise Refusal(
                f"{options.encoding}_corrupt",
                f"The body is not {options.encoding} although its Content-Encoding says so.",
            )
        self._stored = next((rows for magic, rows in STORED.items() if first.startswith(magic)), None)

    def report(self) -> dict[str, Any]:
        container, ingest = self._text() if self._stored is None else self._columnar(self._stored)
        ingest.end()
        if ingest.bad:
            return {"outcome": "invalid", "bad": ingest.bad, "errors": ingest.errors}
        if not ingest.rows:
            raise Refusal("dataset_empty", "The file holds no record.")
        return {
            "outcome": "parsed",
            "container": container,
            "encoding": self._encoding,
            "format": ingest.format,
            "rows": ingest.rows,
            "columns": list(ingest.columns),
            "statistics": ingest.statistics.report(),
            "notices": ingest.notices.report(),
        }

    def _columnar(self, form: type[ParquetRows] | type[ArrowRows]) -> tuple[str, Ingest]:
        for _ in self._chunks:
            pass  # its footer comes last; all of it is in the original then
        rows = form(self._options.original, self._limits, self._options.max_rows)
        _check_columns(rows.columns, f"The {rows.name}", f"{rows.container}_invalid")
        ingest = self._ingest("row", self._table_format(rows.columns, f"The {rows.name} has"))
        texts = text_columns(ingest.format or "", self._mapping)
        needed = texts.needed + texts.optional
        for name, why in rows.unreadable.items():
            if name in needed:
                detail = f"The column {shown_key(name)} {why}. Convert it."
                raise Refusal(f"{rows.container}_type_unsupported", detail)
            ingest.notices.note(LEFT_OUT_COLUMNS, [shown_key(name)[1:-1]])

        def left_out(row: int, names: list[str]) -> None:
            ingest.notices.of_row(LEFT_OUT_VALUES, row, [shown_key(name)[1:-1] for name in names])

        for table in rows.tables(Reading(needed, left_out, self._came)):
            ingest.add_table(table)
        return rows.container, ingest

    def _text(self) -> tuple[str, Ingest]:
        head, pieces = begin(_counted(decompress(self._chunks, self._encoding, self._limits), self._came))
        mark = len(BOM) if head.startswith(BOM) else 0
        if mark:
            pieces = chain([next(pieces)[mark:]], pieces)
        container = recognise_container(head[mark:])
        if container == "csv":
            ingest = self._csv(pieces)
        elif container == "json":
            ingest = self._ingest("row", self._options.format)
            split = split_array if head[mark:].lstrip().startswith(b"[") else split_objects
            for block in split(pieces, self._limits):
                ingest.add_texts(block)
        else:
            ingest = self._ingest("line", self._options.format)
            for lines in split_lines(pieces, self._limits, start=mark):
                ingest.add_lines(lines)
        if mark:
            ingest.notices.note(SKIPPED_MARK)
        return container, ingest

    def _csv(self, pieces: Iterator[bytes]) -> Ingest:
        rows = CsvRows(pieces, self._limits)
        _check_columns(rows.columns, "The CSV header", "csv_invalid")
        format = self._table_format(rows.columns, "The file is not JSON; read as CSV it has")
        ingest = self._ingest("line", format)
        for table in rows.tables():
            ingest.add_table(table)
        return ingest

    def _table_format(self, columns: list[str], what: str) -> str:
        """Return the format of a table with these columns. Raises Refusal format_not_recognised."""
        format = self._options.format
        what = f"{what} {describe(dict.fromkeys(columns)).replace('an object with the keys', 'the columns')}"
        if format == "auto" and self._mapping is None:
            recognised = recognise(dict.fromkeys(columns))
            if recognised is None:
                if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
                    what += ", which are not parted by commas"
                raise Refusal("format_not_recognised", unknown_format(what))
            return recognised
        for name in required_columns(format, self._mapping):
            if name not in columns:
                raise Refusal("format_not_recognised", f"{what}, and not {shown_key(name)}.")
        return format

    def _ingest(self, unit: str, format: str) -> Ingest:
        return Ingest(
            self._writer,
            self._scratch,
            format=format,
            mapping=self._mapping,
            unit=unit,
            max_rows=self._options.max_rows,
        )


def _check_columns(columns: list[str], what: str, code: str) -> None:
    if len(columns) > MAX_COLUMNS:
        detail = f"{what} has {len(columns)} columns, and a dataset can have {MAX_COLUMNS}. Leave some out."
        raise Refusal(code, detail)


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {
        "outcome": "refused",
        "code": refusal.code,
        "detail": refusal.detail,
        "status": refusal.status,
        "pointer": refusal.pointer,
    }


def _counted(pieces: Iterator[bytes], came: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        came(len(piece))
        yield piece


def _stdin() -> Iterator[bytes]:
    """Yield what arrives, as it arrives."""
    while chunk := os.read(0, READ_BYTES):
        yield chunk


def _limit(options: Options) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (options.memory_bytes, options.memory_bytes))
    # A core dump would hold sample text.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Read stdin to its end and print the report."""
    options = Options(**json.loads(sys.argv[1]))
    _limit(options)
    limit = CpuLimit(options.cpu_seconds, options.cpu_bytes_per_second)
    # Parsed JSON has no cycles; in a trap of a million empty arrays the collector would look for some again and again.
    gc.disable()
    try:
        report = parse(_stdin(), options, limit.grant)
    except MemoryError:
        detail = "A record of this file needs more memory than one upload may use. Split large records."
        report = _refused(Refusal("parser_memory_limit", detail))
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            report = _refused(Refusal("storage_full", "The server's disk is full. Nothing was kept.", 507))
        else:
            # Without the message, which may quote a sample.
            place = traceback.extract_tb(error.__traceback__)[-1]
            report = {"outcome": "crashed", "error": f"{type(error).__name__} at {place.filename}:{place.lineno}"}
    sys.stdout.write(json.dumps(report))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
