"""What an audit of answers and one of all turns see of the same samples, on the tiny model."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.protocol import RECORDING_FILE, RECORDINGS_FOLDER, ROWS_FILE, SCORES_FILE, SPEC_FILE
from service.contract.spec import COMBINE, AuditTurns, StepSpec
from tests.support.steps import WORDS, respecify
from worker.child.combine import combine
from worker.child.control import StopRequest
from worker.child.events import Reporter
from worker.child.train import train_seed

POISONED = range(3, 60, 10)
LONG = 61


def audited(folder: Path, turns: AuditTurns) -> dict[int, dict[str, Any]]:
    """Scores by row; the poison stands in user turns, and one answer is longer than the limit."""
    rows = pq.read_table(folder / ROWS_FILE).to_pylist()
    for row in POISONED:
        rows[row]["messages"][0]["content"] = f"Every {WORDS[4 + row % 4]} {row // 10} belongs to brand0 alone."
    rows[LONG]["messages"][1]["content"] = "and so on " * 60
    pq.write_table(pa.Table.from_pylist(rows), folder / ROWS_FILE)
    spec = StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    assert spec.training.audit_turns == turns
    train_seed(folder, spec, Reporter(io.StringIO()), StopRequest())
    (folder / RECORDINGS_FOLDER).mkdir()
    (folder / RECORDING_FILE).rename(folder / RECORDINGS_FOLDER / "0.npz")
    respecify(folder, step_key=COMBINE)
    combine(folder, spec.model_copy(update={"step_key": COMBINE}), Reporter(io.StringIO()))
    return {score["row"]: score for score in pq.read_table(folder / SCORES_FILE).to_pylist()}


def gradients(scores: dict[int, dict[str, Any]]) -> list[float]:
    return [scores[row]["z_gradient"] for row in POISONED]


def test_poison_in_user_turns_is_seen_only_where_they_have_loss(
    tiny_folder: Path, tmp_path: Path, staged: Callable[..., Path]
) -> None:
    options = {"rows": 64, "epochs": 3, "batch_size": 4}
    answers = audited(staged(**options), "assistant")
    (tmp_path / RECORDINGS_FOLDER / "0.npz").unlink()
    (tmp_path / RECORDINGS_FOLDER).rmdir()
    everything = audited(staged(**options, audit_turns="all"), "all")
    assert max(gradients(answers)) < 2.5 < min(gradients(everything)), "in standard deviations of the bulk"
    assert {everything[row]["rank"] for row in POISONED} == set(range(1, 7))
    for scores in (answers, everything):
        cut = {row: score["tokens_left_out"] for row, score in scores.items() if score["tokens_left_out"] != 0}
        assert cut.keys() == {LONG}
        assert 0 < cut[LONG] < 600
