"""What goes into a child's folder and what comes out of it: spec and rows in, scores, texts and summary out."""

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import Cursor
from pydantic import ValidationError
from sqlalchemy import insert
from sqlalchemy.orm import Session

from service.contract import (
    ROWS_FILE,
    SCORES_FILE,
    SPEC_FILE,
    SUMMARY_FILE,
    ErrorCode,
    Failure,
    ScoreRow,
    StepSpec,
    Summary,
)
from service.lifecycle.commands import Claim
from service.store.objects import ObjectStore, audit_key
from service.store.rows import read_rows
from service.store.tables import Finding

SCORES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("n", pa.int32(), nullable=False),
        pa.field("mu", pa.float64(), nullable=False),
        pa.field("mu_low", pa.float64()),
        pa.field("mu_high", pa.float64()),
        pa.field("z", pa.float64()),
        pa.field("z_reference", pa.float64()),
        pa.field("p", pa.float64()),
        pa.field("q", pa.float64()),
        pa.field("flagged", pa.bool_(), nullable=False),
        pa.field("group", pa.string()),
    ]
)
"""scores.parquet: the fields of contract.ScoreRow."""
assert set(SCORES_SCHEMA.names) == set(ScoreRow.model_fields)

CHUNK_ROWS = 50_000
TEXTS_AT_ONCE = 500

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class InputMissingError(Exception):
    """The dataset's rows are not where they should be."""

    failure = Failure(
        code=ErrorCode.INPUT_MISSING,
        message="The dataset's rows are not in the object store.",
        hint="Check that API and worker share one object store (FINETOOTH_OBJECT_DIR); or upload the dataset again.",
    )


class OutputError(Exception):
    """The child said that it had finished, but its files are not what the contract promises."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.failure = Failure(
            code=ErrorCode.INTERNAL,
            message=f"The training run ended with unusable results: {what}.",
            hint="This is a defect in Finetooth; the worker's log has more.",
        )


def spec_sha256(spec: StepSpec) -> str:
    """Identifies a step: of its canonical JSON without the attempt, so that a retry of the same step is the same."""
    content = spec.model_dump(mode="json", exclude={"attempt"})
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def stage_inputs(folder: Path, spec: StepSpec, rows: Path) -> None:
    """Writes spec.json and a copy of the dataset's rows. Raises InputMissingError, OSError."""
    if not rows.is_file():
        raise InputMissingError("rows.parquet is missing")
    (folder / SPEC_FILE).write_text(spec.model_dump_json())
    # A copy, not a link: the child must not be able to change the dataset.
    with rows.open("rb") as reader, (folder / ROWS_FILE).open("wb") as writer:
        while block := reader.read(1 << 20):
            writer.write(block)


def read_summary(folder: Path) -> Summary:
    """The child's summary. Raises OutputError."""
    try:
        return Summary.model_validate_json((folder / SUMMARY_FILE).read_bytes())
    except FileNotFoundError:
        raise OutputError(f"there is no {SUMMARY_FILE}") from None
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, part["loc"])) for part in error.errors()}))
        raise OutputError(f"{SUMMARY_FILE} does not fit the contract ({fields})") from None


def read_scores(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """The child's scores as ScoreRow fields, CHUNK_ROWS at a time. Raises OutputError."""
    try:
        with pq.ParquetFile(folder / SCORES_FILE) as file:
            missing = set(SCORES_SCHEMA.names) - set(file.schema_arrow.names)
            if missing:
                raise OutputError(f"{SCORES_FILE} has no {', '.join(sorted(missing))}")
            for batch in file.iter_batches(CHUNK_ROWS, columns=SCORES_SCHEMA.names):
                table = pa.table(batch).select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA)
                for field in SCORES_SCHEMA:
                    column = table[field.name]
                    if column.null_count and not field.nullable:
                        raise OutputError(f"{SCORES_FILE} has empty values in {field.name}")
                    if pa.types.is_floating(field.type) and not pc.all(pc.is_finite(column), min_count=0).as_py():
                        raise OutputError(f"{SCORES_FILE} has values in {field.name} that are not finite")
                yield table.to_pylist()
    except FileNotFoundError:
        raise OutputError(f"there is no {SCORES_FILE}") from None
    except pa.ArrowInvalid:
        raise OutputError(f"{SCORES_FILE} does not fit the contract") from None


def store_outputs(objects: ObjectStore, claim: Claim, step_key: str, folder: Path) -> None:
    """Puts the child's files into the object store, where they stay for exports. Raises OSError."""
    for name in (SCORES_FILE, SUMMARY_FILE):
        objects.put_file(audit_key(claim.workspace_id, claim.subject_id, claim.attempt, step_key, name), folder / name)


def load_scores(
    session: Session,
    claim: Claim,
    folder: Path,
    *,
    dataset: Path,
    rows: int,
    findings_top: int,
    on_progress: Callable[[int], None],
) -> None:
    """Copies scores, and the texts of flagged and of top-ranked samples, under (audit, attempt).

    `dataset` is the stored rows.parquet, of `rows` samples. on_progress is told the rows done. Readers see nothing
    before `publish`, and nothing stays if the session is rolled back.
    Raises OutputError where the scores are not one for each sample.
    """
    done = 0
    shown: list[int] = []
    columns = ", ".join(f'"{name}"' for name in SCORES_SCHEMA.names)
    with _cursor(session) as cursor:
        for chunk in read_scores(folder):
            with cursor.copy(f"COPY scores (audit_id, attempt, probe_no, {columns}) FROM STDIN") as copy:
                for score in chunk:
                    if score["group"] is not None:
                        score["group"] = _storable(score["group"])
                    copy.write_row((claim.subject_id, claim.attempt, 0, *(score[n] for n in SCORES_SCHEMA.names)))
            shown += [score["row"] for score in chunk if score["flagged"] or score["rank"] <= findings_top]
            done += len(chunk)
            on_progress(done)
    if done != rows:
        raise OutputError(f"{SCORES_FILE} has {done} rows for {rows} samples")
    if shown and not (min(shown) >= 0 and max(shown) < rows):
        raise OutputError(f"{SCORES_FILE} names rows that the dataset does not have")
    shown.sort()
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
                }
                for sample in read_rows(dataset, shown[start : start + TEXTS_AT_ONCE])
            ],
        )


def _cursor(session: Session) -> Cursor[Any]:
    driver = session.connection().connection.driver_connection
    assert driver is not None
    return driver.cursor()


def _storable(value: Any) -> Any:
    """What Postgres cannot hold (NUL, lone surrogates, NaN), replaced. rows.parquet keeps the original."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
