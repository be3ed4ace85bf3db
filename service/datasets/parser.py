"""The child that parses one upload: bytes on stdin, rows.parquet to a file descriptor, one JSON report on stdout.

`python -m service.datasets.parser OPTIONS` with OPTIONS a JSON object of the fields of `Options`. It limits its own
memory and CPU time before it reads a byte, opens no connection, and is given no secret. The report is one of
{outcome: "parsed", format, encoding, rows, columns, statistics}, {outcome: "invalid", bad_lines, errors: [{line,
reason}]}, {outcome: "refused", code, detail, status, line}. It never holds a sample's text.
"""

import errno
import gc
import hashlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from service.datasets.lines import GZIP_MAGIC, Limits, Line, gunzip, is_gzip, split_lines
from service.datasets.records import FORMATS, Sample, describe, read_record, recognise
from service.datasets.refusal import Refusal
from service.datasets.rows_writer import RowsWriter
from service.datasets.statistics import Statistics
from service.datasets.strict_json import RecordError, parse_record, shown_key

READ_BYTES = 1 << 18
LISTED_ERRORS = 100
MAX_COLUMNS = 1000
"""Different extra columns of one dataset."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the child is told."""

    output: int
    """File descriptor of rows.parquet, inherited and open for writing."""
    format: str
    """A record format, or auto."""
    gzip: bool
    """The client declared the body to be gzip."""
    max_text_bytes: int
    max_line_bytes: int
    max_ratio: int
    max_rows: int
    memory_bytes: int
    cpu_seconds: int


class Ingest:
    """Reads lines into samples; from the first bad line on it only checks the rest."""

    def __init__(self, writer: RowsWriter, format: str, max_rows: int) -> None:
        self.format = None if format == "auto" else format
        self.rows = 0
        self.bad_lines = 0
        self.errors: list[dict[str, Any]] = []
        self.columns: dict[str, None] = {}
        self.statistics = Statistics()
        self._writer = writer
        self._max_rows = max_rows

    def add(self, line: Line) -> None:
        """Takes one line. Raises Refusal where the whole upload cannot be taken."""
        if self.rows + self.bad_lines >= self._max_rows:
            raise Refusal(
                "too_many_rows", f"The dataset has more than {self._max_rows} rows. Split it.", 413, line.number
            )
        try:
            sample = self._read(line.number, line.content)
        except RecordError as error:
            self.bad_lines += 1
            if len(self.errors) < LISTED_ERRORS:
                self.errors.append({"line": line.number, "reason": str(error)})
            return
        if not self.bad_lines:
            digest = hashlib.sha256(orjson.dumps(sample.messages, option=orjson.OPT_SORT_KEYS))
            self._writer.add(self.rows, sample, line, digest.hexdigest())
            self.statistics.add(sample, digest.digest())
        self.rows += 1

    def _read(self, number: int, content: bytes) -> Sample:
        record = parse_record(content)
        if self.format is None:
            self.format = recognise(record)
            if self.format is None:
                shapes = "; ".join(f"{name}: {shape}" for name, shape in FORMATS.items())
                raise Refusal(
                    "format_not_recognised",
                    f"The first record is {describe(record)}. Each line must be one of: {shapes}.",
                    line=number,
                )
        sample = read_record(record, self.format)
        for key in sample.extra:
            if key not in self.columns:
                if len(self.columns) >= MAX_COLUMNS:
                    raise RecordError(
                        f"the column {shown_key(key)} is one more than the {MAX_COLUMNS} that a dataset can have"
                    )
                self.columns[key] = None
        return sample


def parse(chunks: Iterator[bytes], options: Options) -> dict[str, Any]:
    """The report of an upload. Rows are written to `options.output` on the way."""
    limits = Limits(options.max_line_bytes, options.max_text_bytes, options.max_ratio)
    try:
        first = b""
        while len(first) < len(GZIP_MAGIC) and (chunk := next(chunks, b"")):
            first += chunk
        compressed = is_gzip(first)
        if options.gzip and first and not compressed:
            raise Refusal("gzip_corrupt", "The body is not gzip although its Content-Encoding says so.")
        with os.fdopen(options.output, "wb", closefd=False) as file, RowsWriter(file) as writer:
            ingest = Ingest(writer, options.format, options.max_rows)
            pieces = _after(first, chunks)
            for line in split_lines(gunzip(pieces, limits) if compressed else pieces, limits):
                ingest.add(line)
    except Refusal as refusal:
        return _refused(refusal)
    if ingest.bad_lines:
        return {"outcome": "invalid", "bad_lines": ingest.bad_lines, "errors": ingest.errors}
    if not ingest.rows:
        return _refused(Refusal("dataset_empty", "The file holds no record. Upload JSONL, one JSON object a line."))
    return {
        "outcome": "parsed",
        "format": ingest.format,
        "encoding": "gzip" if compressed else "identity",
        "rows": ingest.rows,
        "columns": list(ingest.columns),
        "statistics": ingest.statistics.report(),
    }


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {
        "outcome": "refused",
        "code": refusal.code,
        "detail": refusal.detail,
        "status": refusal.status,
        "line": refusal.line,
    }


def _after(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _stdin() -> Iterator[bytes]:
    """What arrives, as it arrives."""
    while chunk := os.read(0, READ_BYTES):
        yield chunk


def _limit(options: Options) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (options.memory_bytes, options.memory_bytes))
    # At the first limit the kernel says why (SIGXCPU), at the second it kills.
    resource.setrlimit(resource.RLIMIT_CPU, (options.cpu_seconds, options.cpu_seconds + 5))
    # A core dump would hold sample text.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Reads stdin to its end and prints the report."""
    options = Options(**json.loads(sys.argv[1]))
    _limit(options)
    # Parsed JSON has no cycles; in a trap of a million empty arrays the collector would look for some again and again.
    gc.disable()
    try:
        report = parse(_stdin(), options)
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
