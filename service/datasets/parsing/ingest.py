"""Turning records into rows.parquet, statistics and notices: many at once if all are valid, else one by one."""

from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any

from service.datasets.parsing.arrow.lines import ArrowLines
from service.datasets.parsing.batch import Batch, batch_of_samples, batch_of_texts
from service.datasets.parsing.columns import Columns, columns_of
from service.datasets.parsing.notices import Notices
from service.datasets.parsing.readers.csv import Table
from service.datasets.parsing.readers.jsonl import Block, Lines
from service.datasets.parsing.records import (
    FORMATS,
    MAPPED,
    MAX_COLUMNS,
    MAX_KEY_LENGTH,
    Mapping,
    Sample,
    describe,
    read_record,
    recognise,
)
from service.datasets.parsing.refusal import Refusal
from service.datasets.parsing.rows_writer import RowsWriter
from service.datasets.parsing.statistics import Statistics
from service.datasets.parsing.strict_json import RecordError, parse_record, shown_key

LISTED_ERRORS = 100
"""Bad records that a report lists."""

BATCH_TEXTS = 128
"""Texts that are parsed at once: as many as stay in a processor's cache."""

SMALLEST_BATCH = 8
"""A batch that is not clearly valid is halved down to this, then read one by one."""

PART_ROWS = 1024
"""Records that are converted to columns at once, since each conversion has a fixed cost."""

PART_BYTES = 2**20
"""The same as bytes: a batch of either size is converted."""

KNOWN_SHAPES = 1000
"""Different sets of columns that are remembered as checked."""


class Ingest:
    """A receiver of lines, blocks of JSON texts or tables, then `end`. From the first bad record on it only checks."""

    def __init__(
        self, writer: RowsWriter, scratch: IO[bytes], *, format: str, mapping: Mapping | None, unit: str, max_rows: int
    ) -> None:
        """Begin with no record.

        Args:
            writer: Writes rows.parquet.
            scratch: An empty file, which may be filled with digests.
            format: The record format, or `auto`.
            mapping: The columns of the texts, if the records have no known format.
            unit: What a place counts: `line` or `row`.
            max_rows: The most rows that are accepted.
        """
        self.format = MAPPED if mapping is not None else None if format == "auto" else format
        self.rows = 0
        self.bad = 0
        self.errors: list[dict[str, str]] = []
        self.columns: dict[str, None] = {}
        self.statistics = Statistics(scratch)
        self.notices = Notices()
        self._writer = writer
        self._mapping = mapping
        self._unit = unit
        self._max_rows = max_rows
        self._shapes: set[tuple[str, ...]] = set()
        self._arrow: ArrowLines | None = None
        self._held: list[Batch] = []
        """Batches that are not converted to columns yet."""
        self._held_rows = self._held_bytes = 0

    def add_lines(self, lines: Lines) -> None:
        """Read lines of JSON. Raises Refusal if the whole upload must be refused."""
        rest: Lines | None = lines
        if self.format is None:
            first, rest = lines.after_first()
            self.add_texts(first.block())
        if rest is None:
            return
        if self.format is None:
            self.add_texts(rest.block())
            return
        if self._arrow is None:
            self._arrow = ArrowLines(self.format, self._mapping)
        for part, columns in self._arrow.read(rest):
            if columns is not None and self._fits(len(columns)) and self._know([tuple(columns.values)]):
                self.rows += len(columns)
                self._convert()
                self._keep(columns)
            else:
                self.add_texts(part.block())

    def add_texts(self, block: Block) -> None:
        """Read JSON texts. Raises Refusal if the whole upload must be refused."""
        start = 0
        while self.format is None and start < len(block.texts):
            self._texts_one_by_one(block.part(start, start + 1))
            start += 1
        for begin in range(start, len(block.texts), BATCH_TEXTS):
            self._add_texts(block.part(begin, begin + BATCH_TEXTS))

    def add_table(self, table: Table) -> None:
        """Read records.

        Args:
            table: Records, or why one could not be read.

        Raises:
            Refusal: The whole upload must be refused: `format_not_recognised` or `too_many_rows`.
        """

        def read(index: int) -> Any:
            record = table.records[index]
            if isinstance(record, RecordError):
                raise record
            return record

        samples, _ = self._read(table.places, read)
        self._hold(batch_of_samples(samples))

    def end(self) -> None:
        """Finish, once everything was read."""
        self._convert()

    def _add_texts(self, block: Block) -> None:
        count = len(block.texts)
        assert self.format is not None
        if self._fits(count):
            batch = batch_of_texts(block.texts, self.format, self._mapping)
            if batch is not None and self._know(map(tuple, batch.extras)):
                batch.starts, batch.lengths = block.starts, _lengths(block)
                self.rows += count
                self._hold(batch)
                return
        if count <= SMALLEST_BATCH:
            self._texts_one_by_one(block)
            return
        self._add_texts(block.part(0, count // 2))
        self._add_texts(block.part(count // 2, count))

    def _texts_one_by_one(self, block: Block) -> None:
        samples, kept = self._read(block.places, lambda index: parse_record(block.texts[index]))
        batch = batch_of_samples(samples)
        if block.starts is not None and len(kept) == len(block.texts):
            batch.starts, batch.lengths = block.starts, _lengths(block)
        self._hold(batch)

    def _read(self, places: Sequence[int], record: Callable[[int], Any]) -> tuple[list[Sample], list[int]]:
        """Read the valid records and say which they are; note what is wrong with the others."""
        samples: list[Sample] = []
        kept: list[int] = []
        for index, place in enumerate(places):
            pointer = f"{self._unit}:{place}"
            if self.rows + self.bad >= self._max_rows:
                detail = f"The dataset has more than {self._max_rows} rows. Split it."
                raise Refusal("too_many_rows", detail, 413, pointer)
            try:
                samples.append(self._sample(record(index), pointer))
            except RecordError as error:
                self.bad += 1
                if len(self.errors) < LISTED_ERRORS:
                    self.errors.append({"pointer": pointer, "reason": str(error)})
            else:
                self.rows += 1
                kept.append(index)
        return samples, kept

    def _sample(self, record: Any, pointer: str) -> Sample:
        if self.format is None:
            self.format = recognise(record)
            if self.format is None:
                detail = unknown_format(f"The first record is {describe(record)}")
                for key, value in record.items() if isinstance(record, dict) else ():
                    if isinstance(value, list) and value and isinstance(value[0], dict):
                        detail += f" If {shown_key(key)} holds the records, upload that list alone, as a JSON array."
                        break
                raise Refusal("format_not_recognised", detail, pointer=pointer)
        sample = read_record(record, self.format, self._mapping)
        for key in sample.extra:
            if key not in self.columns:
                if len(self.columns) >= MAX_COLUMNS:
                    raise RecordError(
                        f"the column {shown_key(key)} is one more than the {MAX_COLUMNS} that a dataset can have"
                    )
                self.columns[key] = None
        return sample

    def _fits(self, rows: int) -> bool:
        return self.rows + self.bad + rows <= self._max_rows

    def _know(self, shapes: Iterable[tuple[str, ...]]) -> bool:
        """Note the columns; return False, without noting any, if one name is too long or there are too many."""
        new = [shape for shape in dict.fromkeys(shapes) if shape not in self._shapes]
        if not new:
            return True
        added = dict.fromkeys(key for shape in new for key in shape if key not in self.columns)
        if len(self.columns) + len(added) > MAX_COLUMNS or any(len(key) > MAX_KEY_LENGTH for key in added):
            return False
        self.columns |= added
        if len(self._shapes) < KNOWN_SHAPES:
            self._shapes.update(new)
        return True

    def _hold(self, batch: Batch) -> None:
        if self.bad or not len(batch):
            return
        self._held.append(batch)
        self._held_rows += len(batch)
        self._held_bytes += sum(map(len, batch.canonical))
        if self._held_rows >= PART_ROWS or self._held_bytes >= PART_BYTES:
            self._convert()

    def _convert(self) -> None:
        held, self._held, self._held_rows, self._held_bytes = self._held, [], 0, 0
        if held:
            self._keep(columns_of(held))

    def _keep(self, columns: Columns) -> None:
        if self.bad:
            return
        digests = columns.digests()
        self._writer.add(columns, digests)
        self.statistics.add(columns, digests)
        self.notices.add(columns)


def unknown_format(what: str) -> str:
    """Return what to say of records that fit no format."""
    shapes = "; ".join(f"{name}: {known.shape}" for name, known in FORMATS.items())
    return f"{what}. Each record must be one of: {shapes}. Or name the columns: ?prompt_column=...&answer_column=..."


def _lengths(block: Block) -> list[int] | None:
    return None if block.starts is None else list(map(len, block.texts))
