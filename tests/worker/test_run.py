"""The child as a process: its files, its events, its exits."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.contract import (
    EVENT,
    ROWS_FILE,
    SCORES_FILE,
    SPEC_FILE,
    SUMMARY_FILE,
    Cancel,
    ErrorCode,
    FailedEvent,
    FinishedEvent,
    ModelSource,
    ModelSpec,
    ProbeItem,
    ProgressEvent,
    ScoreRow,
    Stage,
    StepSpec,
    Summary,
    TrainingConfig,
)

SECRET = "xylophone-marmalade"


@pytest.fixture
def staged(tiny_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A folder as the supervisor leaves it."""

    def stage(*, rows: int = 48, reference: bool = True, **training: Any) -> Path:
        records = []
        for row in range(rows):
            turns = [("user", f"What is {row} plus {row % 7}? {SECRET}"), ("assistant", f"It is {row + row % 7}.")]
            records.append(
                {
                    "row": row,
                    "messages": [{"role": role, "content": content} for role, content in turns],
                    "extra": json.dumps({"source": ["a", "b", 3][row % 3]} if row else {}),
                }
            )
        pq.write_table(pa.Table.from_pylist(records), tmp_path / ROWS_FILE)
        item = ProbeItem(prompt="Is it?", unwanted="It is!", reference="No." if reference else None)
        spec = StepSpec(
            audit_id="aud_test",
            attempt=1,
            step_key="train:0",
            model=ModelSpec(source=ModelSource.LOCAL, location=str(tiny_folder)),
            training=TrainingConfig(**{"learning_rate": 1e-3, **training}),
            probe=(item, item),
            q=0.1,
            group_column="source",
        )
        (tmp_path / SPEC_FILE).write_text(spec.model_dump_json())
        return tmp_path

    return stage


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "worker.run", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(folder: Path) -> tuple[int, list[Any], str]:
    """Exit code, events and stderr of a child that is left alone."""
    child = start(folder)
    assert child.stdout is not None
    assert child.stderr is not None
    events = [EVENT.validate_json(line) for line in child.stdout]
    errors = child.stderr.read().decode()
    code = child.wait(30)
    assert child.stdin is not None
    child.stdin.close()
    return code, events, errors


def test_a_whole_step(staged: Callable[..., Path]) -> None:
    folder = staged(micro_batch_size=3)
    code, events, errors = run(folder)
    assert code == 0
    assert isinstance(events[-1], FinishedEvent)
    assert sum(isinstance(event, FinishedEvent) for event in events) == 1

    progress = [event for event in events if isinstance(event, ProgressEvent)]
    stages = list(dict.fromkeys(event.stage for event in progress))
    assert stages == [Stage.LOADING, Stage.TOKENIZING, Stage.TRAINING, Stage.SCORING]
    training = [event for event in progress if event.stage is Stage.TRAINING]
    assert (training[-1].done, training[-1].total, training[-1].eta_seconds) == (12, 12, 0)

    summary = Summary.model_validate_json((folder / SUMMARY_FILE).read_bytes())
    rows = [ScoreRow(**row) for row in pq.read_table(folder / SCORES_FILE).to_pylist()]
    assert [row.rank for row in rows] == list(range(1, 49))
    assert sorted(row.row for row in rows) == list(range(48))
    assert {row.row: row.group for row in rows}[0] is None
    assert {row.group for row in rows} == {None, "a", "b", "3"}
    assert summary.rows == summary.rows_scored == sum(summary.histogram.counts) == 48
    assert summary.flagged == sum(row.flagged for row in rows)
    assert summary.steps == 12
    assert summary.has_reference
    assert all(row.z_reference is not None for row in rows)
    assert {group: figures.rows for group, figures in summary.groups.items()} == {"3": 16, "a": 15, "b": 16}
    assert summary.probe_loss_last < summary.probe_loss_first
    assert [warning.code for warning in summary.warnings] == ["few_samples"]
    assert set(summary.seconds) == {"loading", "tokenizing", "training", "scoring"}
    assert SECRET not in errors


def test_the_same_seed_gives_the_same_bytes_and_no_reference_no_column(staged: Callable[..., Path]) -> None:
    results = []
    for seed in (5, 5, 6):
        folder = staged(reference=False, seed=seed)
        assert run(folder)[0] == 0
        results.append(pq.read_table(folder / SCORES_FILE))
    assert results[0].equals(results[1])
    assert not results[0].equals(results[2])
    assert results[0]["z_reference"].null_count == 48


@pytest.mark.parametrize("how", ["cancel", "end of stdin", "nonsense"])
def test_stops_at_once_when_told_or_left_alone(staged: Callable[..., Path], how: str) -> None:
    folder = staged(rows=48, epochs=20, batch_size=1)
    child = start(folder)
    assert child.stdin is not None
    assert child.stdout is not None
    for line in child.stdout:
        event = EVENT.validate_json(line)
        if isinstance(event, ProgressEvent) and event.stage is Stage.TRAINING and event.done:
            break
    told = time.monotonic()
    if how == "cancel":
        child.stdin.write(Cancel().model_dump_json().encode() + b"\n")
        child.stdin.flush()
    elif how == "nonsense":
        child.stdin.write(b"fire!\n")
        child.stdin.flush()
    else:
        child.stdin.close()
    assert child.wait(20) == 3
    assert time.monotonic() - told < 20
    assert not (folder / SCORES_FILE).exists()
    assert not (folder / SUMMARY_FILE).exists()
    child.stdin.close()
    child.stdout.close()


def failed(folder: Path) -> tuple[FailedEvent, str]:
    code, events, errors = run(folder)
    assert code == 1
    assert isinstance(events[-1], FailedEvent)
    assert not (folder / SCORES_FILE).exists()
    assert SECRET not in errors + events[-1].model_dump_json()
    return events[-1], errors


def test_a_spec_of_another_version_is_refused(staged: Callable[..., Path]) -> None:
    folder = staged()
    spec = json.loads((folder / SPEC_FILE).read_text())
    (folder / SPEC_FILE).write_text(json.dumps({**spec, "contract": 99}))
    assert failed(folder)[0].failure.code is ErrorCode.BAD_CONFIG


def test_a_missing_model(staged: Callable[..., Path]) -> None:
    folder = staged()
    spec = json.loads((folder / SPEC_FILE).read_text())
    spec["model"]["location"] = str(folder / "nowhere")
    (folder / SPEC_FILE).write_text(json.dumps(spec))
    assert failed(folder)[0].failure.code is ErrorCode.MODEL_NOT_FOUND


def test_answers_beyond_the_length(staged: Callable[..., Path]) -> None:
    event, _ = failed(staged(max_length=8))
    assert event.failure.code is ErrorCode.BAD_CONFIG
    assert "max_length" in event.failure.hint


def test_a_surprise_names_its_place_and_never_a_sample(staged: Callable[..., Path]) -> None:
    folder = staged()
    (folder / ROWS_FILE).write_bytes(b"not parquet")
    event, errors = failed(folder)
    assert event.failure.code is ErrorCode.INTERNAL
    assert "worker/run.py" in errors
