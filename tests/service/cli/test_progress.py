"""What the command says while an audit runs."""

import io
from typing import Any

import pytest
from rich.console import Console

from service.cli.progress import ProgressDisplay, audit_act


def running(stage: str = "training", key: str = "train:8", number: int = 2, seeds: int = 3) -> dict[str, Any]:
    return {
        "status": "running", "stage": stage, "seeds": seeds, "step": {"key": key, "number": number, "of": seeds + 1},
        "progress": {"done": 30, "total": 85, "unit": "steps", "eta_seconds": 600},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("audit", "act"),
    [
        (running(), "Training and measuring, seed 2 of 3"),
        (running(stage="loading"), "Loading the model, seed 2 of 3"),
        (running(key="train:7", number=1, seeds=1), "Training and measuring"),
        (running("loading", "combine", 4), "Scoring, all 3 seeds together"),
        (running("publishing", "combine", 4), "Publishing, all 3 seeds together"),
        (running("attributing", "train:7", 1, seeds=1), "Computing influence of tokens"),
        (running("rehearsing", "train:7", 1, seeds=1), "Rehearsing"),
        ({**running("preparing"), "step": None}, "Preparing"),
    ],
)
def test_the_seed_is_told_where_there_are_several(audit: dict[str, Any], act: str) -> None:
    assert audit_act(audit) == act


def test_a_plain_line_has_stage_seed_count_and_time_left() -> None:
    output = io.StringIO()
    with ProgressDisplay(Console(file=output, width=120)) as progress:
        progress.audit(running())
    assert output.getvalue().split("  ") == [
        "Training and measuring, seed 2 of 3",
        "30 of 85 steps",
        "about 10 min left\n",
    ]


def test_a_line_that_comes_again_says_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([100.0, 101.0, 110.0, 110.5])
    monkeypatch.setattr("service.cli.progress.time.monotonic", lambda: next(seconds))
    output = io.StringIO()
    with ProgressDisplay(Console(file=output, width=120)) as progress:
        for act in ("Loading the model", "Loading the model", "Loading the model", "Tokenizing"):
            progress.report(act)
    assert output.getvalue().splitlines() == ["Loading the model", "Loading the model  10 s so far", "Tokenizing"]
