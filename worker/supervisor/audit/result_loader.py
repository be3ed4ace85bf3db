"""Loads the files of a combining child into the database: scores of every sample, and the findings that are shown."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import Cursor
from sqlalchemy import insert, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.contract.protocol import BASELINES_FILE, NEAREST_FILE, SCORES_FILE, TOKENS_FILE, TRACES_FILE
from service.contract.results import Side
from service.lifecycle.jobs import Claim
from service.store.rows import read_rows
from service.store.score_lists import add_lists
from service.store.tables import Finding
from worker.result_schemas import (
    baselines_schema,
    nearest_schema,
    scores_schema,
    tokens_schema,
    traces_schema,
)
from worker.supervisor.errors import OutputError

CHUNK_ROWS = 50_000
"""Rows that are copied to the database at once; progress is shown after each."""

TEXTS_AT_ONCE = 500
"""Findings whose texts are read from the dataset at once, since texts may be long."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def load_results(
    session: Session,
    claim: Claim,
    folder: Path,
    *,
    dataset: IO[bytes],
    rows: int,
    probes: int,
    findings_top: int,
    on_progress: Callable[[int], None],
) -> None:
    """Load the scores; of flagged and of top-ranked samples text, trace, baselines, tokens and nearest samples too.

    Readers see nothing before `publish`, and nothing stays if the session is rolled back.

    Args:
        session: The session to write with.
        claim: The audit and the attempt to which the results belong.
        folder: The folder with the child's files.
        dataset: The stored rows.parquet, open.
        rows: How many samples it has.
        probes: How many probes the audit has.
        findings_top: Up to which rank the text of a sample is kept.
        on_progress: Called with the number of scores that are done.

    Raises:
        OutputError: The files are not what the contract promises.
    """
    shown = _load_scores(
        session, claim, folder, rows=rows, probes=probes, findings_top=findings_top, on_progress=on_progress
    )
    traces = _read_traces(folder, shown, probes)
    baselines = _read_baselines(folder, shown, rows)
    tokens = _read_tokens(folder, shown, probes)
    nearest = _read_nearest(folder, shown, rows)
    for start in range(0, len(shown), TEXTS_AT_ONCE):
        session.execute(
            insert(Finding),
            [
                {
                    "audit_id": claim.subject_id,
                    "attempt": claim.attempt,
                    "workspace_id": claim.workspace_id,
                    "row": sample["row"],
                    "messages": _storable(sample["messages"]),
                    "extra": _storable(sample["extra"]),
                    "trace": traces[sample["row"]],
                    "baselines": baselines[sample["row"]],
                    "tokens": _checked(tokens.get(sample["row"]), sample["messages"]),
                    "nearest": nearest.get(sample["row"]),
                }
                for sample in read_rows(dataset, shown[start : start + TEXTS_AT_ONCE])
            ],
        )
    # Until somebody has counted them, the database takes a list of millions for a short one, and sorts it whole.
    session.execute(text("ANALYZE (SKIP_LOCKED) scores, findings"))


def score_count(rows: int, probes: int) -> int:
    """Return how many scores an audit has: one per sample, and with several probes one more for each of them.

    Args:
        rows: Samples of the dataset.
        probes: Probes of the audit.
    """
    return rows * (probes + 1 if probes > 1 else 1)


def _load_scores(
    session: Session,
    claim: Claim,
    folder: Path,
    *,
    rows: int,
    probes: int,
    findings_top: int,
    on_progress: Callable[[int], None],
) -> list[int]:
    """Copy the scores. Returns the rows whose text is to be kept, in order."""
    done: Counter[int] = Counter()
    shown: set[int] = set()
    lists = pa.array(add_lists(session, audit_id=claim.subject_id, attempt=claim.attempt, probes=probes), pa.int32())
    columns = ", ".join(f'"{name}"' for name in ["list_id", *scores_schema().names[1:]])
    with _cursor(session) as cursor:
        for table in _read(folder, SCORES_FILE, scores_schema()):
            _check_range(table, SCORES_FILE, row=(0, rows - 1), rank=(1, rows), cluster=(0, rows - 1))
            _check_range(table, SCORES_FILE, strongest_probe=(1, probes), probe_no=(0, len(lists) - 1))
            if not pc.all(pc.is_in(table["side"], pa.array([None, *Side], pa.string()))).as_py():
                raise OutputError(f"{SCORES_FILE} has unknown sides")
            with _as_sqlalchemy(), cursor.copy(f"COPY scores ({columns}) FROM STDIN") as copy:
                copy.write(_copy_text(table.set_column(0, "list_id", pc.take(lists, table["probe_no"]))))
            kept = table.filter(pc.or_(table["flagged"], pc.less_equal(table["rank"], findings_top)))
            shown.update(kept["row"].to_pylist())
            done.update({count["values"]: count["counts"] for count in pc.value_counts(table["probe_no"]).to_pylist()})
            on_progress(done.total())
    # A unique index holds each row and each rank once a probe.
    expected = dict.fromkeys(range(len(lists)), rows)
    if done != expected:
        raise OutputError(f"{SCORES_FILE} has {dict(sorted(done.items()))} rows by probe_no, not {expected}")
    return sorted(shown)


def _copy_text(table: pa.Table) -> memoryview:
    """Return the scores in COPY's text format. Made by column: by row in Python it takes most of the loading."""
    columns: list[Any] = []
    for column in table.columns:
        value = column.combine_chunks().cast(pa.large_string())
        if pa.types.is_string(column.type):
            # Arrow's texts are UTF-8, so of what Postgres cannot hold there is NUL alone.
            for character, written in (("\0", "\ufffd"), ("\\", r"\\"), ("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t")):
                value = pc.replace_substring(value, character, written)
        columns.append(pc.fill_null(value, _large(r"\N")))
    fields = pc.binary_join_element_wise(*columns, _large("\t"))
    lines = pc.binary_join_element_wise(fields, _large(""), _large("\n"))
    # All lines lie in one buffer, one behind the other.
    length = pc.sum(pc.binary_length(lines), min_count=0).as_py()
    return memoryview(lines.buffers()[2] or b"")[:length]


def _large(text: str) -> pa.Scalar:
    """Return a scalar of the type whose columns may hold more than 2 GiB."""
    return pa.scalar(text, pa.large_string())


def _read_traces(folder: Path, shown: Sequence[int], probes: int) -> dict[int, list[dict[str, Any]]]:
    """Return the observations of those rows, ordered by probe, seed and step."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    wanted = pa.array(shown, pa.int64())
    for table in _read(folder, TRACES_FILE, traces_schema()):
        _check_range(table, TRACES_FILE, probe_no=(1, probes))
        for observation in table.filter(pc.is_in(table["row"], wanted)).to_pylist():
            found[observation.pop("row")].append(observation)
    for observations in found.values():
        observations.sort(key=lambda one: (one["probe_no"], one["seed"], one["step"]))
    return found


def _read_baselines(folder: Path, shown: Sequence[int], rows: int) -> dict[int, dict[str, Any]]:
    """Return the results of simpler methods for those rows."""
    found: dict[int, dict[str, Any]] = {}
    wanted = pa.array(shown, pa.int64())
    done = 0
    for table in _read(folder, BASELINES_FILE, baselines_schema()):
        if table["row"].to_pylist() != list(range(done, done + len(table))):
            raise OutputError(f"{BASELINES_FILE} is not in the order of the rows")
        done += len(table)
        for record in table.filter(pc.is_in(table["row"], wanted)).to_pylist():
            found[record.pop("row")] = record
    if done != rows:
        raise OutputError(f"{BASELINES_FILE} has {done} rows for {rows} samples")
    return found


def _read_tokens(folder: Path, shown: Sequence[int], probes: int) -> dict[int, list[dict[str, Any]]]:
    """Return the shares of the tokens of those rows, probe by probe; other rows have none."""
    found: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
    wanted = pa.array(shown, pa.int64())
    for table in _read(folder, TOKENS_FILE, tokens_schema()):
        _check_range(table, TOKENS_FILE, probe_no=(1, probes))
        for record in table.filter(pc.is_in(table["row"], wanted)).to_pylist():
            row, probe_no = record.pop("row"), record.pop("probe_no")
            own = found[row].setdefault(probe_no, {"probe_no": probe_no, "elsewhere": 0.0, "tokens": []})
            if record["message"] is None:
                own["elsewhere"] = record["share"]
            elif record["start"] is None or record["end"] is None:
                raise OutputError(f"{TOKENS_FILE} has tokens outside the text")
            else:
                own["tokens"].append(record)
    for by_probe in found.values():
        for own in by_probe.values():
            own["tokens"].sort(key=lambda token: (token["message"], token["start"]))
    return {row: [by_probe[number] for number in sorted(by_probe)] for row, by_probe in found.items()}


def _checked(split: list[dict[str, Any]] | None, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Return the split. Raises OutputError if a token lies outside the sample's text, or tokens overlap."""
    for own in split or []:
        message, position = 0, 0
        for token in own["tokens"]:
            position = position if token["message"] == message else 0
            message = token["message"]
            length = len(messages[message]["content"]) if 0 <= message < len(messages) else 0
            if not position <= token["start"] < token["end"] <= length:
                raise OutputError(f"{TOKENS_FILE} has tokens outside the text")
            position = token["end"]
    return split


def _read_nearest(folder: Path, shown: Sequence[int], rows: int) -> dict[int, list[dict[str, Any]]]:
    """Return the nearest samples of those rows; those that were not looked at have none."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    wanted = pa.array(shown, pa.int64())
    for table in _read(folder, NEAREST_FILE, nearest_schema()):
        _check_range(table, NEAREST_FILE, neighbour=(0, rows - 1))
        for record in table.filter(pc.is_in(table["row"], wanted)).to_pylist():
            found[record.pop("row")].append(record)
    for own in found.values():
        own.sort(key=lambda record: record.pop("place"))
    return found


def _read(folder: Path, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the file's records, CHUNK_ROWS at a time. Raises OutputError if they are not of the schema."""
    try:
        with pq.ParquetFile(folder / name) as file:
            missing = set(schema.names) - set(file.schema_arrow.names)
            if missing:
                raise OutputError(f"{name} has no {', '.join(sorted(missing))}")
            for batch in file.iter_batches(CHUNK_ROWS, columns=schema.names):
                table = pa.table(batch).select(schema.names).cast(schema)
                for field in schema:
                    column = table[field.name]
                    if pa.types.is_floating(field.type) and not pc.all(pc.is_finite(column), min_count=0).as_py():
                        raise OutputError(f"{name} has values in {field.name} that are not finite")
                yield table
    except FileNotFoundError:
        raise OutputError(f"there is no {name}") from None
    except (ValueError, NotImplementedError):  # as Arrow says that a value or an empty one cannot be cast
        raise OutputError(f"{name} does not fit the contract") from None


def _check_range(table: pa.Table, name: str, **ranges: tuple[int, int]) -> None:
    for column, (low, high) in ranges.items():
        ends = pc.min_max(table[column]).as_py()
        if len(table) and not (low <= ends["min"] and ends["max"] <= high):
            raise OutputError(f"{name} has values in {column} outside {low} to {high}")


@contextmanager
def _as_sqlalchemy() -> Iterator[None]:
    """Raise the driver's error about an unreachable database as the one that SQLAlchemy raises."""
    try:
        yield
    except psycopg.OperationalError as error:
        raise OperationalError("COPY scores", None, error) from None


def _cursor(session: Session) -> Cursor[Any]:
    driver = session.connection().connection.driver_connection
    assert driver is not None
    return driver.cursor()


def _storable(value: Any) -> Any:
    """Replace what Postgres cannot hold: NUL, lone surrogates, NaN. rows.parquet keeps the original."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
