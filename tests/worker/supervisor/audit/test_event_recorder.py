"""What is recorded of the events that a scripted child reports."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.contract.spec import TrainingConfig
from service.store.tables import Audit
from tests.support.children.scripting import (
    FINISHED,
    OUTPUTS,
    SECRET,
    SUMMARY,
    combining,
    outputs,
    training,
    training_progress,
)
from tests.support.supervisor_bench import Bench, either_way
from tests.support.waiting import wait_for


@either_way
def test_what_it_says_is_relayed_and_what_is_no_event_is_not(
    bench: Bench, make_audit: Callable[..., Audit], caplog: pytest.LogCaptureFixture
) -> None:
    audit = make_audit()
    bench.run(
        ["raw", f"Loading {SECRET}: 100%\r\n", 3],
        ["say", {"type": "progress", "stage": "loading", "done": 0}],
        ["raw", '{"type": "progress"}\n{"type": "unheard"}\n[1]\n\ud800\n', 1],
        ["raw", "x", 3_000_000],
        ["raw", "\n", 1],
        ["stderr", f"{SECRET}\n", 100_000],
        training(
            *[training_progress(done) for done in range(11)],
            ["say", {"type": "metric", "step": 1, "loss": 2.5, "learning_rate": 0.1, "grad_norm": 1.0}],
        ),
        combining(["say", {"type": "notice", "level": "warning", "code": "few_rows", "message": "Few rows."}]),
        OUTPUTS,
        FINISHED,
    )
    assert bench.job(audit).state == "succeeded"
    assert [e.data for e in bench.events(audit, "stage")] == [
        {"stage": "loading"},
        {"stage": "training"},
        {"stage": "preparing"},
        {"stage": "loading"},
        {"stage": "publishing"},
    ]
    assert [e.data for e in bench.events(audit, "step")] == [
        {"key": "train:7", "number": 1, "of": 2},
        {"key": "combine", "number": 2, "of": 2},
    ]
    (metric,) = bench.events(audit, "metric")
    assert metric.data == {
        "seed": 7,
        "step": 1,
        "loss": 2.5,
        "learning_rate": 0.1,
        "grad_norm": 1.0,
        "probe_loss": None,
    }
    (notice,) = bench.events(audit, "notice")
    assert (notice.level, notice.message, notice.data) == ("warning", "Few rows.", {"code": "few_rows"})
    assert SECRET not in repr([(e.message, e.data) for e in bench.events(audit)])
    assert SECRET not in caplog.text


def test_progress_is_seen_while_it_runs(bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path) -> None:
    audit = make_audit()
    wait = training(training_progress(0), training_progress(4), ["until", str(tmp_path / "go")])
    script = (wait, OUTPUTS, FINISHED)
    thread = threading.Thread(target=bench.run, daemon=True, args=script)
    thread.start()
    wait_for(lambda: bench.audit(audit).progress_done == 4)
    seen = bench.audit(audit)
    assert (seen.step_key, seen.stage, seen.progress_total, seen.progress_unit) == (
        "train:7",
        "training",
        10,
        "steps",
    )
    assert seen.published_attempt is None
    (tmp_path / "go").touch()
    thread.join(60)
    assert bench.job(audit).state == "succeeded"


def test_a_long_run_leaves_some_hundred_metrics(bench: Bench, make_audit: Callable[..., Audit]) -> None:
    audit = make_audit(training=TrainingConfig(seed=7, batch_size=1, epochs=20))
    metrics = [
        ["say", {
            "type": "metric", "step": step, "loss": 1.0, "learning_rate": 0.1, "grad_norm": 1.0,
            "probe_loss": 1.0 if step % 3 == 0 else None,
        }]
        for step in range(1, 801)
    ]  # fmt: skip
    bench.run(training(*metrics), OUTPUTS, FINISHED)
    kept = [event.data for event in bench.events(audit, "metric") if event.data]
    assert 100 <= len(kept) <= 202
    assert kept[0]["step"] == 1
    assert kept[-1]["step"] > 790
    assert sum(data["probe_loss"] is not None for data in kept) >= 95


def test_the_eta_counts_the_seeds_to_come(bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path) -> None:
    audit = make_audit(seeds=3)
    said = training_progress(5)
    said[1]["eta_seconds"] = 100
    wait = ["if", "train:7", [training_progress(0), said, ["until", str(tmp_path / "go")]]]
    summary = {**SUMMARY, "seeds": [7, 8, 9]}
    thread = threading.Thread(target=bench.run, daemon=True, args=(wait, outputs(summary=summary), FINISHED))
    thread.start()
    wait_for(lambda: bench.audit(audit).progress_done == 5)
    seen = bench.audit(audit)
    assert seen.eta_at is not None
    assert seen.progressed_at is not None
    assert 300 <= (seen.eta_at - seen.progressed_at).total_seconds() < 330
    (tmp_path / "go").touch()
    thread.join(30)
    assert bench.job(audit).state == "succeeded"
