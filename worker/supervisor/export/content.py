"""Writes what an export holds: scores by rank, or samples in the order of the upload."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import IO, Any, Protocol

import pyarrow as pa
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from service.contract.protocol import ROWS_FILE
from service.contract.results import ScoreRow
from service.lifecycle.claims import Claim
from service.lifecycle.exports import Filter, Format, Kind
from service.store.objects import ObjectMissingError, ObjectStore, dataset_key
from service.store.score_lists import HEADLINE, published_lists
from service.store.tables import Audit, Dataset, Export, Score
from worker.result_schemas import scores_schema
from worker.supervisor.database import T
from worker.supervisor.errors import InputMissingError
from worker.supervisor.export.original import LineCutter, open_original
from worker.supervisor.export.row_groups import SAMPLES_SCHEMA, RowGroup, row_groups
from worker.supervisor.export.selection import selected
from worker.supervisor.export.writers import MeasuredFile, Record, SampleLinesWriter, Writer, make_writer

SCORES_AT_ONCE = 10_000
"""Scores that are read from the database at once."""


@dataclass(frozen=True)
class ExportWork:
    """An export and what it is made of, as the database describes them."""

    kind: Kind
    format: Format
    filter: Filter | None
    max_q: float | None
    asked_at: datetime
    audit_id: str
    lists: tuple[int, ...]
    """The numbers of the lists of scores that are public, by probe_no."""
    workspace_id: str
    dataset_id: str
    dataset_sha256: str
    encoding: str
    rows: int

    @property
    def records(self) -> int:
        """How many scores are written, or samples looked at."""
        return self.rows * len(self.lists) if self.kind == "scores" else self.rows

    @property
    def unit(self) -> str:
        """What `records` counts."""
        return "scores" if self.kind == "scores" else "samples"


def plan_export(session: Session, claim: Claim) -> ExportWork:
    """Read what the claimed export is to hold.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.

    Raises:
        sqlalchemy.exc.NoResultFound: It was deleted.
    """
    export = session.get_one(Export, claim.subject_id)
    audit = session.get_one(Audit, export.audit_id)
    dataset = session.get_one(Dataset, audit.dataset_id)
    lists = session.execute(select(published_lists()).where(Audit.id == audit.id)).scalar_one()
    asked: Any = export  # CHECKs hold the values
    return ExportWork(
        kind=asked.kind,
        format=asked.format,
        filter=asked.filter,
        max_q=export.max_q,
        asked_at=export.created_at,
        audit_id=audit.id,
        lists=tuple(lists),
        workspace_id=claim.workspace_id,
        dataset_id=dataset.id,
        dataset_sha256=dataset.sha256,
        encoding=dataset.encoding,
        rows=dataset.rows,
    )


@dataclass(frozen=True)
class Written:
    """What a content holds."""

    rows: int
    """How many records the content has."""
    truncated: int | None = None
    """How many samples of a cleaned file were not measured to their end; None for other kinds and older audits."""


class Read(Protocol):
    """Runs one short transaction."""

    def __call__(self, act: Callable[[Session], T], /) -> T:
        """Run the function in a transaction, and return what it returns."""


class Content:
    """Writes the content of one export."""

    def __init__(self, work: ExportWork, objects: ObjectStore, read: Read, tick: Callable[[int], None]) -> None:
        """Call `tick` often with how many of `work.records` are done. What it raises ends the writing."""
        self._work = work
        self._objects = objects
        self._read = read
        self._tick = tick
        self._done = 0
        self._truncated = 0

    def write(self, file: MeasuredFile) -> Written:
        """Write the whole content, and return how much it holds.

        Raises:
            InputMissingError: The dataset is not in the object store.
            ObjectStoreUnavailableError: The object store cannot be reached.
            OSError: The file cannot be written.
        """
        format = self._work.format
        if self._work.kind == "scores":
            return Written(self._write(make_writer(format, file, scores_schema()), self._scores()))
        with self._open(ROWS_FILE, "The dataset's rows are") as rows:
            if self._work.kind == "flagged":
                columns = pa.schema([*scores_schema(), *list(SAMPLES_SCHEMA)[1:]])
                return Written(self._write(make_writer(format, file, columns), self._flagged(rows)))
            written = self._cleaned(rows, file)
        return Written(written, self._truncated if self._read(self._knows_truncated) else None)

    def _cleaned(self, rows: IO[bytes], file: MeasuredFile) -> int:
        if self._work.format != "jsonl":
            return self._write(make_writer(self._work.format, file, SAMPLES_SCHEMA), self._kept(rows))
        if any(group.spans() is None for group in row_groups(rows)):
            return self._write(SampleLinesWriter(file), self._kept(rows))
        return self._cut(rows, file)

    def _write(self, writer: Writer, chunks: Iterator[Sequence[Record]]) -> int:
        written = 0
        for chunk in chunks:
            self._tick(self._done)
            writer.write(chunk)
            written += len(chunk)
        writer.finish()
        self._tick(self._done)
        return written

    # ------------------------------------------------------------ scores

    def _scores(self) -> Iterator[list[Record]]:
        for probe_no, list_id in enumerate(self._work.lists):
            after = 0
            while True:
                query = select(Score).where(Score.list_id == list_id, Score.rank > after)
                query = query.order_by(Score.rank).limit(SCORES_AT_ONCE)
                chunk = self._read(partial(_scores_of, query=query, probe_no=probe_no))
                if not chunk:
                    break
                yield chunk
                self._done += len(chunk)
                after = chunk[-1]["rank"]

    def _selected(self, group: RowGroup) -> dict[int, Record]:
        """Return the headline scores of the group's samples that the export is about, by row."""
        work = self._work
        assert work.filter is not None
        query = select(Score).where(
            Score.list_id == work.lists[HEADLINE],
            Score.row >= group.first,
            Score.row < group.end,
            selected(work.filter, work.max_q, work.audit_id, work.asked_at),
        )
        scores = self._read(partial(_scores_of, query=query.order_by(Score.row), probe_no=HEADLINE))
        return {score["row"]: score for score in scores}

    def _count_truncated(self, group: RowGroup, left_out: Collection[int]) -> None:
        """Count the group's samples that stay and were not measured to their end."""
        query = select(Score.row).where(
            Score.list_id == self._work.lists[HEADLINE],
            Score.row >= group.first,
            Score.row < group.end,
            Score.tokens_left_out > 0,
        )
        rows = self._read(lambda session: session.scalars(query).all())
        self._truncated += sum(row not in left_out for row in rows)

    def _knows_truncated(self, session: Session) -> bool:
        """Whether the audit counted tokens left out: it did of its first sample, or of none."""
        query = select(Score.tokens_left_out).where(Score.list_id == self._work.lists[HEADLINE], Score.rank == 1)
        return session.scalar(query) is not None

    # ------------------------------------------------------------ samples

    def _flagged(self, rows: IO[bytes]) -> Iterator[list[Record]]:
        for group in row_groups(rows):
            scores = self._selected(group)
            self._done = group.end
            if scores:
                yield [{**scores[sample["row"]], **sample} for sample in group.samples() if sample["row"] in scores]
            else:
                self._tick(self._done)

    def _kept(self, rows: IO[bytes]) -> Iterator[list[Record]]:
        for group in row_groups(rows):
            left_out = self._selected(group)
            self._count_truncated(group, left_out)
            self._done = group.end
            yield [sample for sample in group.samples() if sample["row"] not in left_out]

    def _cut(self, rows: IO[bytes], file: MeasuredFile) -> int:
        """Write the lines of the upload itself, without those that are left out."""
        kept = self._work.rows
        with (
            self._open("original", "The upload as it came is") as stored,
            open_original(stored, encoding=self._work.encoding, sha256=self._work.dataset_sha256) as original,
        ):
            cutter = LineCutter(original, file.write, lambda: self._tick(self._done))
            for group in row_groups(rows):
                spans = group.spans()
                assert spans is not None
                left_out = self._selected(group)
                for row in left_out:
                    cutter.leave_out(*spans[row - group.first])
                self._count_truncated(group, left_out)
                cutter.copy_to(sum(spans[-1]))
                kept -= len(left_out)
                self._done = group.end
            cutter.finish()
        return kept

    @contextmanager
    def _open(self, name: str, what: str) -> Iterator[IO[bytes]]:
        try:
            with self._objects.open(dataset_key(self._work.workspace_id, self._work.dataset_id, name)) as file:
                yield file
        except ObjectMissingError:
            raise InputMissingError(what) from None


def _scores_of(session: Session, query: Select[Score], probe_no: int) -> list[Record]:
    columns = [name for name in ScoreRow.model_fields if name != "probe_no"]
    return [
        {"probe_no": probe_no, **{name: getattr(score, name) for name in columns}} for score in session.scalars(query)
    ]
