"""From records to rows.parquet, statistics and notices: batches where all is good, single records where it is not."""

from collections.abc import Callable, Sequence
from typing import IO, Any

from service.datasets.batch import Batch, batch_of_samples, batch_of_texts
from service.datasets.csv_rows import Table
from service.datasets.lines import Block
from service.datasets.notices import Notices
from service.datasets.records import FORMATS, MAPPED, MAX_KEY_LENGTH, Mapping, Sample, describe, read_record, recognise
from service.datasets.refusal import Refusal
from service.datasets.rows_writer import RowsWriter
from service.datasets.statistics import Statistics
from service.datasets.strict_json import RecordError, parse_record, shown_key

LISTED_ERRORS = 100
MAX_COLUMNS = 1000
"""Different extra columns of one dataset."""

BATCH_TEXTS = 128
"""As many as stay in a processor's cache while they are parsed."""
SMALLEST_BATCH = 8
"""A batch that is not plainly good is halved down to this, then read one by one."""

KNOWN_SHAPES = 1000
"""Different sets of columns that are remembered as known."""


class Ingest:
    """Takes blocks of JSON texts, or tables of records; from the first bad one on it only checks the rest."""

    def __init__(
        self, writer: RowsWriter, scratch: IO[bytes], *, format: str, mapping: Mapping | None, unit: str, max_rows: int
    ) -> None:
        """`unit` is what a place counts, line or row; `scratch` an empty file that the digests may fill."""
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

    def add_texts(self, block: Block) -> None:
        """Takes JSON texts. Raises Refusal where the whole upload cannot be taken."""
        start = 0
        while self.format is None and start < len(block.texts):
            self._texts_one_by_one(block.part(start, start + 1))
            start += 1
        for begin in range(start, len(block.texts), BATCH_TEXTS):
            self._add_texts(block.part(begin, begin + BATCH_TEXTS))

    def add_table(self, table: Table) -> None:
        """Takes records. Raises Refusal where the whole upload cannot be taken."""

        def read(index: int) -> Any:
            record = table.records[index]
            if isinstance(record, RecordError):
                raise record
            return record

        samples, _ = self._read(table.places, read)
        self._keep(batch_of_samples(samples))

    def _add_texts(self, block: Block) -> None:
        count = len(block.texts)
        assert self.format is not None
        if self.rows + self.bad + count <= self._max_rows:
            batch = batch_of_texts(block.texts, self.format, self._mapping)
            if batch is not None and self._know(batch.extras):
                batch.starts, batch.lengths = block.starts, _lengths(block)
                self.rows += count
                self._keep(batch)
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
        self._keep(batch)

    def _read(self, places: Sequence[int], record: Callable[[int], Any]) -> tuple[list[Sample], list[int]]:
        """The good ones, and which they are; of the others it takes note."""
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
                raise Refusal(
                    "format_not_recognised", unknown_format(f"The first record is {describe(record)}"), pointer=pointer
                )
        sample = read_record(record, self.format, self._mapping)
        for key in sample.extra:
            if key not in self.columns:
                if len(self.columns) >= MAX_COLUMNS:
                    raise RecordError(
                        f"the column {shown_key(key)} is one more than the {MAX_COLUMNS} that a dataset can have"
                    )
                self.columns[key] = None
        return sample

    def _know(self, extras: Sequence[dict[str, Any]]) -> bool:
        """Takes note of the columns; False, and no note, where one is too long or too many."""
        shapes = [shape for shape in dict.fromkeys(map(tuple, extras)) if shape not in self._shapes]
        if not shapes:
            return True
        added = dict.fromkeys(key for shape in shapes for key in shape if key not in self.columns)
        if len(self.columns) + len(added) > MAX_COLUMNS or any(len(key) > MAX_KEY_LENGTH for key in added):
            return False
        self.columns |= added
        if len(self._shapes) < KNOWN_SHAPES:
            self._shapes.update(shapes)
        return True

    def _keep(self, batch: Batch) -> None:
        if self.bad or not len(batch):
            return
        digests = batch.digests
        self._writer.add(batch, digests)
        self.statistics.add(batch, digests)
        self.notices.add(batch)


def unknown_format(what: str) -> str:
    """What to say of records that fit no format."""
    shapes = "; ".join(f"{name}: {shape}" for name, shape in FORMATS.items())
    return f"{what}. Each record must be one of: {shapes}. Or name the columns: ?prompt_column=...&answer_column=..."


def _lengths(block: Block) -> list[int] | None:
    return None if block.starts is None else list(map(len, block.texts))
