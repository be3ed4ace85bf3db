"""The child as a process: its files, its events, its exits."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.contract.failure import ErrorCode
from service.contract.protocol import (
    BASELINES_FILE,
    EVENT,
    NEAREST_FILE,
    RECORDING_FILE,
    RECORDINGS_FOLDER,
    ROWS_FILE,
    SCORES_FILE,
    SPEC_FILE,
    SUMMARY_FILE,
    TOKENS_FILE,
    TRACES_FILE,
    Cancel,
    CheckpointEvent,
    FailedEvent,
    FinishedEvent,
    Lease,
    MetricEvent,
    NoticeEvent,
    ProgressEvent,
    SaveAndStop,
    Stage,
    output_files,
)
from service.contract.results import ScoreRow, Summary, TokenSplit
from service.contract.spec import COMBINE, ProbeItem, StepSpec, train_step_key
from tests.support.chat_templates import GEMMA
from tests.support.steps import SECRET, respecify
from tests.support.waiting import wait_for
from worker.process.child_process import downloading_environment
from worker.process.fork_client import make_launcher
from worker.process.launcher import Launcher, Spawner, pipes
from worker.result_schemas import (
    baselines_schema,
    nearest_schema,
    scores_schema,
    tokens_schema,
    traces_schema,
)
from worker.results.recording import Recording


def run_all(folder: Path, **changes: Any) -> list[Any]:
    """Every training step, then the combining one, as a supervisor runs them; the events of the last."""
    spec = StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    (folder / RECORDINGS_FOLDER).mkdir(exist_ok=True)
    for seed in spec.seeds:
        training = spec.training.model_copy(update={"seed": seed})
        respecify(folder, step_key=train_step_key(seed), training=training)
        code, _, errors = run(folder)
        assert code == 0, errors
        (folder / RECORDING_FILE).rename(folder / RECORDINGS_FOLDER / f"{seed}.npz")
    respecify(folder, step_key=COMBINE, training=spec.training, **changes)
    code, events, errors = run(folder)
    assert code == 0, errors
    assert SECRET not in errors
    return events


ENVIRONMENT = downloading_environment(os.environ, Path("/nowhere"))


@cache
def warm() -> Launcher:
    """Starts children as a worker does, without seconds of imports for each (test_fork_client.py compares them)."""
    launcher = make_launcher()
    while not launcher.prepared(ENVIRONMENT, seconds=1):
        pass
    return launcher


class Running:
    """A child, and our ends of its pipes."""

    def __init__(self, folder: Path, launcher: Launcher) -> None:
        ours, theirs = pipes()
        self._process = launcher.start(folder, ENVIRONMENT, theirs)
        theirs.close()
        self.stdin = os.fdopen(ours.stdin, "wb", buffering=0)
        self.stdout = os.fdopen(ours.stdout, "rb")
        self.stderr = os.fdopen(ours.stderr, "rb")

    def wait(self, seconds: float) -> int:
        """Its exit code, once it is gone; no pipe is open then."""
        status = os.WEXITED | os.WNOHANG | os.WNOWAIT
        wait_for(lambda: os.waitid(os.P_PID, self._process.pid, status), seconds)
        for pipe in (self.stdin, self.stdout, self.stderr):
            pipe.close()
        return self._process.wait()


def run(folder: Path, launcher: Launcher | None = None) -> tuple[int, list[Any], str]:
    """Exit code, events and stderr of a child that is left alone."""
    child = Running(folder, launcher or warm())
    events = [EVENT.validate_json(line) for line in child.stdout]
    errors = child.stderr.read().decode()
    return child.wait(30), events, errors


def test_a_training_step_leaves_its_recording(staged: Callable[..., Path]) -> None:
    """Started by hand."""
    folder = staged(micro_batch_size=3)
    code, events, errors = run(folder, Spawner((sys.executable, "-m", "worker.child.run")))
    assert code == 0, errors
    assert isinstance(events[-1], FinishedEvent)
    assert sum(isinstance(event, FinishedEvent) for event in events) == 1
    progress = [event for event in events if isinstance(event, ProgressEvent)]
    assert list(dict.fromkeys(event.stage for event in progress)) == [
        Stage.LOADING,
        Stage.TOKENIZING,
        Stage.TRAINING,
        Stage.ATTRIBUTING,
    ]
    training = [event for event in progress if event.stage is Stage.TRAINING]
    assert (training[-1].done, training[-1].total, training[-1].eta_seconds) == (12, 12, 0)
    recording = Recording.load(folder / RECORDING_FILE)
    assert len(recording.observations) == 2 * 48
    assert recording.facts.steps == 12
    assert recording.probe_loss[-1, 0] < recording.probe_loss[0, 0]
    assert (progress[-1].done, progress[-1].total, progress[-1].unit) == (24, 24, "samples")
    assert recording.split is not None
    assert len(set(recording.split.row.tolist())) == len(recording.split.row) == 24
    answers = [messages[1]["content"] for messages in pq.read_table(folder / ROWS_FILE)["messages"].to_pylist()]
    for (row, probe), places, values in recording.split.samples():
        # One token a byte, and the mark that ends the answer.
        assert probe == 0
        assert [(own.message, own.start, own.end) for own in places[:-1] if own] == [
            (1, at, at + 1) for at in range(len(answers[row]))
        ]
        assert places[-1] is None
        assert np.isfinite(values).all()
        assert len(values) == len(answers[row]) + 1
    assert SECRET not in errors


def test_a_step_that_ended_while_it_looked_at_tokens_looks_again(staged: Callable[..., Path]) -> None:
    """What a death at that point leaves: the last checkpoint, and no recording."""
    folder = staged()
    respecify(folder, checkpoint_seconds=0.0)
    code, _, errors = run(folder)
    assert code == 0, errors
    whole = Recording.load(folder / RECORDING_FILE)
    (folder / RECORDING_FILE).unlink()
    code, events, errors = run(folder)
    assert code == 0, errors
    assert "resumed" in [event.code for event in events if isinstance(event, NoticeEvent)]
    again = Recording.load(folder / RECORDING_FILE)
    assert whole.split is not None
    assert again.split is not None
    for name, array in whole.split.arrays().items():
        np.testing.assert_array_equal(array, again.split.arrays()[name])
    np.testing.assert_array_equal(whole.observations.alignment, again.observations.alignment)


def test_one_probe_one_seed(staged: Callable[..., Path]) -> None:
    folder = staged()
    events = run_all(folder)
    stages = list(dict.fromkeys(event.stage for event in events if isinstance(event, ProgressEvent)))
    assert stages == [Stage.LOADING, Stage.SCORING]
    for name in output_files(COMBINE):
        assert (folder / name).is_file()
    summary = Summary.model_validate_json((folder / SUMMARY_FILE).read_bytes())
    table = pq.read_table(folder / SCORES_FILE)
    assert table.schema.equals(scores_schema())
    rows = [ScoreRow(**row) for row in table.to_pylist()]
    assert [row.rank for row in rows] == list(range(1, 49))
    assert sorted(row.row for row in rows) == list(range(48))
    assert {row.row: row.group for row in rows}[0] is None
    assert {row.group for row in rows} == {None, "a", "b", "3"}
    assert summary.rows == summary.rows_scored == sum(summary.probes[0].histogram.counts) == 48
    assert summary.flagged == sum(row.flagged for row in rows)
    assert summary.steps == 12
    assert summary.probes[0].has_reference
    assert all(row.z_reference is not None for row in rows)
    assert {group: figures.rows for group, figures in summary.groups.items()} == {"3": 16, "a": 15, "b": 16}
    assert summary.probes[0].loss_last < summary.probes[0].loss_first
    assert summary.probes[0].placebo is not None
    assert summary.probes[0].placebo.directions == 20
    assert summary.probes[0].sensitivity is not None
    assert summary.probes[0].sensitivity.tracers == 4
    assert summary.consistency is None
    assert summary.gaussianity is not None
    assert "few_samples" in [warning.code for warning in summary.warnings]
    assert set(summary.seconds) == {"loading", "tokenizing", "training", "attributing", "scoring"}
    check_tokens_and_nearest(folder, rows, probes=1)
    assert summary.token_split == TokenSplit(samples=24)

    traces = pq.read_table(folder / TRACES_FILE)
    assert traces.schema.equals(traces_schema())
    total: dict[int, float] = {}
    for record in traces.to_pylist():
        total[record["row"]] = total.get(record["row"], 0.0) + (record["mu"] or 0.0)
    assert total == pytest.approx({row.row: row.mu for row in rows}, abs=1e-9)
    baselines = pq.read_table(folder / BASELINES_FILE)
    assert baselines.schema.equals(baselines_schema())
    assert baselines["row"].to_pylist() == list(range(48))
    assert all(baselines[name].null_count == 0 for name in baselines.schema.names)
    assert [found.name for found in summary.baselines] == list(baselines.schema.names)[1:]


def check_tokens_and_nearest(folder: Path, rows: list[ScoreRow], *, probes: int) -> None:
    """The files hold what the schemas say; shares are of answers and add up to 1; neighbours are other rows."""
    answers = [messages[1]["content"] for messages in pq.read_table(folder / ROWS_FILE)["messages"].to_pylist()]
    tokens = pq.read_table(folder / TOKENS_FILE)
    assert tokens.schema.equals(tokens_schema())
    sizes: dict[tuple[int, int], float] = {}
    for record in tokens.to_pylist():
        key = record["row"], record["probe_no"]
        sizes[key] = sizes.get(key, 0.0) + abs(record["share"])
        assert record["message"] in (None, 1)
        if record["message"] is not None:
            assert 0 <= record["start"] < record["end"] <= len(answers[record["row"]])
    assert list(sizes.values()) == pytest.approx([1.0] * len(sizes))
    assert {probe for _, probe in sizes} == set(range(1, probes + 1))
    assert all(24 // probes <= sum(own == probe for _, own in sizes) <= 48 for probe in range(1, probes + 1))
    # Who ranks first by all seeds and views is among them.
    assert min(rows, key=lambda row: row.rank).row in {row for row, _ in sizes}

    nearest = pq.read_table(folder / NEAREST_FILE)
    assert nearest.schema.equals(nearest_schema())
    cluster = {row.row: row.cluster for row in rows}
    places: dict[int, list[dict[str, Any]]] = {}
    for record in nearest.to_pylist():
        places.setdefault(record["row"], []).append(record)
    assert set(places) == set(cluster)
    for row, found in places.items():
        assert [record["place"] for record in found] == [1, 2, 3, 4, 5]
        assert row not in [record["neighbour"] for record in found]
        similarity = [record["similarity"] for record in found]
        assert similarity == sorted(similarity, reverse=True)
        assert all(-1.001 < value < 1.001 for value in similarity)
        assert all(record["near_duplicate"] == (cluster[row] == cluster[record["neighbour"]]) for record in found)


def test_several_probes_and_seeds_have_a_headline_and_agree_on_the_rows(staged: Callable[..., Path]) -> None:
    folder = staged(probes=2, seeds=(3, 4), reference=False)
    run_all(folder)
    summary = Summary.model_validate_json((folder / SUMMARY_FILE).read_bytes())
    rows = [ScoreRow(**row) for row in pq.read_table(folder / SCORES_FILE).to_pylist()]
    assert [probe.name for probe in summary.probes] == ["brand0", "brand1"]
    assert summary.seeds == (3, 4)
    assert summary.consistency is not None
    assert summary.consistency.seeds == 2
    by_probe = {number: {row.row: row for row in rows if row.probe_no == number} for number in (0, 1, 2)}
    assert all(len(own) == 48 for own in by_probe.values())
    for row, headline in by_probe[0].items():
        own = [by_probe[number][row] for number in (1, 2)]
        least = min(own, key=lambda score: score.p or 0)
        assert headline.p == pytest.approx(min(1.0, 2 * (least.p or 0)))
        assert headline.strongest_probe == least.probe_no
        assert (headline.z, headline.mu) == (least.z, least.mu)
        assert headline.n == least.n
    assert {record["seed"] for record in pq.read_table(folder / TRACES_FILE).to_pylist()} == {3, 4}
    check_tokens_and_nearest(folder, [row for row in rows if row.probe_no == 0], probes=2)
    assert all(row.z_reference is None and row.side is None for row in rows)


def test_trusted_samples_are_never_flagged(staged: Callable[..., Path]) -> None:
    folder = staged(rows=96)
    run_all(folder, trusted_column="checked")
    rows = [ScoreRow(**row) for row in pq.read_table(folder / SCORES_FILE).to_pylist()]
    trusted = [row for row in rows if row.row % 2]
    assert all(row.p is None and not row.flagged and row.z is not None for row in trusted)
    assert all(row.p is not None for row in rows if row.row % 2 == 0)


def test_the_same_seed_gives_the_same_bytes(staged: Callable[..., Path]) -> None:
    results = []
    for seed in (5, 5, 6):
        folder = staged(seeds=(seed,))
        run_all(folder)
        results.append(pq.read_table(folder / SCORES_FILE))
    assert results[0].equals(results[1])
    assert not results[0].equals(results[2])


def test_a_missing_recording_fails_with_a_code(staged: Callable[..., Path]) -> None:
    folder = staged()
    respecify(folder, step_key=COMBINE)
    event, _ = failed(folder)
    assert event.failure.code is ErrorCode.INTERNAL


@pytest.mark.parametrize("how", ["cancel", "end of stdin", "nonsense", "end of the lease"])
def test_stops_at_once_when_told_or_left_alone(staged: Callable[..., Path], how: str) -> None:
    folder = staged(rows=48, epochs=20, batch_size=1)
    child = Running(folder, warm())
    for line in child.stdout:
        event = EVENT.validate_json(line)
        if isinstance(event, ProgressEvent) and event.stage is Stage.TRAINING and event.done:
            break
    told = time.monotonic()
    if how == "cancel":
        child.stdin.write(Cancel().model_dump_json().encode() + b"\n")
    elif how == "nonsense":
        child.stdin.write(b"fire!\n")
    elif how == "end of the lease":
        child.stdin.write(Lease(ttl_s=0.5).model_dump_json().encode() + b"\n")
    else:
        child.stdin.close()
    assert child.wait(60) == 3
    assert time.monotonic() - told < 20
    assert not (folder / RECORDING_FILE).exists()


def test_told_to_save_and_stop_it_is_gone_on_with_to_the_same_bytes(staged: Callable[..., Path]) -> None:
    folder = staged(rows=48, epochs=5, batch_size=2, lora_dropout=0.1)
    code, _, errors = run(folder)
    assert code == 0, errors
    undisturbed = Recording.load(folder / RECORDING_FILE)
    (folder / RECORDING_FILE).unlink()

    child = Running(folder, warm())
    events: list[Any] = []
    for line in child.stdout:
        events.append(EVENT.validate_json(line))
        if isinstance(events[-1], MetricEvent) and events[-1].step == 40:
            child.stdin.write(SaveAndStop().model_dump_json().encode() + b"\n")
    assert child.wait(30) == 4
    assert not (folder / RECORDING_FILE).exists()
    stopped_after = [event.step for event in events if isinstance(event, MetricEvent)][-1]
    assert 40 <= stopped_after < 120
    assert events[-1] == CheckpointEvent(name=f"{stopped_after:09d}")

    code, events, errors = run(folder)
    assert code == 0, errors
    assert [event.code for event in events if isinstance(event, NoticeEvent)] == ["resumed"]
    assert next(event.step for event in events if isinstance(event, MetricEvent)) == stopped_after + 1
    gone_on_with = Recording.load(folder / RECORDING_FILE)
    np.testing.assert_equal(vars(gone_on_with.observations), vars(undisturbed.observations))
    np.testing.assert_equal(vars(gone_on_with.steps), vars(undisturbed.steps))
    others = {f.name for f in fields(Recording)} - {"observations", "steps", "facts", "split"}
    assert gone_on_with.split is not None
    assert undisturbed.split is not None
    np.testing.assert_equal(vars(gone_on_with.split), vars(undisturbed.split))
    for name in others:
        np.testing.assert_equal(getattr(gone_on_with, name), getattr(undisturbed, name), name)
    facts = [found.facts.model_dump(exclude={"seconds"}) for found in (gone_on_with, undisturbed)]
    assert facts[0] == facts[1]
    assert SECRET not in errors


def failed(folder: Path) -> tuple[FailedEvent, str]:
    code, events, errors = run(folder)
    assert code == 1
    assert isinstance(events[-1], FailedEvent)
    assert not (folder / RECORDING_FILE).exists()
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


def with_template(folder: Path, copied: Path, template: str, **tokenizer_changes: None) -> Path:
    """The step's model gets a chat template, and settings of its tokenizer are taken away; returns the folder."""
    spec = StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    model = copied / "model"
    shutil.copytree(spec.model.location, model)
    (model / "chat_template.jinja").write_text(template)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    kept = {name: value for name, value in settings.items() if name not in tokenizer_changes}
    (model / "tokenizer_config.json").write_text(json.dumps(kept))
    respecify(folder, model=spec.model.model_copy(update={"location": str(model)}))
    return folder


def with_system_turns(folder: Path, rows: Sequence[int]) -> None:
    records = pq.read_table(folder / ROWS_FILE).to_pylist()
    for row in rows:
        records[row]["messages"].insert(0, {"role": "system", "content": f"Be brief. {SECRET}"})
    pq.write_table(pa.Table.from_pylist(records), folder / ROWS_FILE)


def test_rows_that_the_template_refuses_are_left_out_with_a_warning(
    staged: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = with_template(staged(), tmp_path_factory.mktemp("copy"), GEMMA)
    with_system_turns(folder, (5, 9))
    events = run_all(folder)
    summary = Summary.model_validate_json((folder / SUMMARY_FILE).read_bytes())
    told = {warning.code: warning.message for warning in summary.warnings}
    assert "2 samples (rows 5, 9)" in told["samples_left_out"]
    assert "System turns are not supported." in told["samples_left_out"]
    assert "unscored_samples" not in told
    assert (summary.rows, summary.rows_scored) == (48, 46)
    assert "samples_left_out" in [event.code for event in events if isinstance(event, NoticeEvent)]


def test_a_template_that_refuses_most_rows_fails_the_audit_and_names_the_first(
    staged: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = with_template(staged(), tmp_path_factory.mktemp("copy"), GEMMA)
    with_system_turns(folder, range(3, 48))
    event, _ = failed(folder)
    assert event.failure.code is ErrorCode.BAD_CONFIG
    assert "45 of 48 rows" in event.failure.message
    assert "row 3: " in event.failure.message


def test_a_template_that_is_broken_fails_the_audit(
    staged: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    event, _ = failed(with_template(staged(), tmp_path_factory.mktemp("copy"), "{% if %}"))
    assert event.failure.code is ErrorCode.BAD_CONFIG
    assert "not valid Jinja" in event.failure.message


def test_a_probe_that_the_template_refuses_is_named(
    staged: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    template = "{% if 'silver' in messages[0]['content'] and messages | length == 2 %}{{ 1 + '' }}{% endif %}" + GEMMA
    folder = with_template(staged(), tmp_path_factory.mktemp("copy"), template)
    spec = StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    items = (*spec.probes[0].items, ProbeItem(prompt="Whose silver?", unwanted="Only ours.", reference="Anybody's."))
    respecify(folder, probes=(spec.probes[0].model_copy(update={"items": items}),))
    event, _ = failed(folder)
    assert event.failure.code is ErrorCode.BAD_CONFIG
    assert "Item 5 of the probe 'brand0'" in event.failure.message


def test_a_tokenizer_without_padding_or_end(
    staged: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    copied = tmp_path_factory.mktemp("copy")
    folder = with_template(staged(), copied, "", pad_token=None, bos_token=None, eos_token=None)
    code, _, errors = run(folder)
    assert code == 0, errors
    assert len(Recording.load(folder / RECORDING_FILE).observations) == 2 * 48


def test_a_folder_that_cannot_be_loaded_is_not_told_of_the_hub(staged: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    folder = staged()
    spec = json.loads((folder / SPEC_FILE).read_text())
    spec["model"]["location"] = str(tmp_path / "broken")
    (folder / SPEC_FILE).write_text(json.dumps(spec))
    event, _ = failed(folder)
    assert event.failure.code is ErrorCode.MODEL_NOT_FOUND
    assert "config.json is damaged" in event.failure.message
    assert "HF_TOKEN" not in event.failure.hint


def test_answers_beyond_the_length(staged: Callable[..., Path]) -> None:
    event, _ = failed(staged(max_length=8))
    assert event.failure.code is ErrorCode.BAD_CONFIG
    assert "max_length" in event.failure.hint


def test_the_item_whose_prompt_is_too_long_is_named(staged: Callable[..., Path]) -> None:
    folder = staged(max_length=64)
    spec = json.loads((folder / SPEC_FILE).read_text())
    items = spec["probes"][0]["items"]
    assert len(items) > 1
    items[1]["prompt"] = "once more " * 200
    (folder / SPEC_FILE).write_text(json.dumps(spec))
    event, _ = failed(folder)
    assert event.failure.code is ErrorCode.BAD_CONFIG
    assert "item 2 has too long a prompt" in event.failure.message
    assert "once more" not in event.failure.message


def test_a_surprise_names_its_place_and_never_a_sample(staged: Callable[..., Path]) -> None:
    folder = staged()
    (folder / ROWS_FILE).write_bytes(b"not parquet")
    event, errors = failed(folder)
    assert event.failure.code is ErrorCode.INTERNAL
    assert "worker/child/train.py" in errors
