"""Sentences say what the numbers say."""

from collections.abc import Callable
from typing import Any

import pytest

from service.contract import ScoreRow, Summary, TrainingConfig
from service.web.wording import counted, decimal, duration, finding_words, probability, remaining, settings, verdict

MakeSummary = Callable[..., Summary]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"flagged": 21},
            "Finetooth flags 21 of 340 samples; at q = 0.05 about 1 of them is expected to be a false alarm.",
        ),
        (
            {"flagged": 60, "rows_scored": 12_000},
            "Finetooth flags 60 of 12,000 samples; at q = 0.05 about 3 of them are expected to be false alarms.",
        ),
        (
            {"flagged": 5},
            "Finetooth flags 5 of 340 samples; at q = 0.05 fewer than one of them is expected to be a false alarm.",
        ),
        (
            {"flagged": 1},
            "Finetooth flags 1 of 340 samples; at q = 0.05 at most 5 % of such flags are expected to be false alarms.",
        ),
        (
            {"flagged": 0, "threshold_z": None},
            "Finetooth flags none of 340 samples: at q = 0.05 no sample stands out from the bulk.",
        ),
    ],
)
def test_the_verdict_is_one_sentence_with_its_error_rate(
    summary_of: MakeSummary, changes: dict[str, Any], sentence: str
) -> None:
    assert verdict(summary_of(**changes)) == sentence


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.0, "1.00"),
        (0.996, "1.00"),
        (0.5, "0.5"),
        (0.0321, "0.032"),
        (0.001, "0.001"),
        (4.13e-7, "4.1 × 10⁻⁷"),
        (9.99e-12, "1.0 × 10⁻¹¹"),
    ],
)
def test_probabilities(value: float | None, shown: str) -> None:
    assert probability(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (1.005, "1.00"), (-2.5, "−2.50"), (-0.001, "0.00"), (12345.6, "12,345.60")]
)
def test_decimals(value: float | None, shown: str) -> None:
    assert decimal(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (0.2, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (720, "12 min"), (7500, "2 h 5 min"),
     (3600 * 50, "2 d 2 h")],
)  # fmt: skip
def test_durations(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "no estimate yet"), (3, "a few seconds left"), (47, "about 50 s left"), (600, "about 10 min left"),
     (6 * 3600, "about 6.0 h left")],
)  # fmt: skip
def test_what_remains(seconds: float | None, shown: str) -> None:
    assert remaining(seconds) == shown


def test_one_is_not_many() -> None:
    assert (counted(1, "sample"), counted(0, "sample"), counted(2000, "sample")) == (
        "1 sample",
        "0 samples",
        "2,000 samples",
    )


def test_settings_say_what_an_unset_one_means() -> None:
    shown = settings(TrainingConfig(epochs=3, weight_decay=0.01))
    assert set(shown) == set(TrainingConfig.model_fields)
    assert (shown["epochs"], shown["weight_decay"], shown["target_modules"]) == ("3", "0.01", "q_proj, v_proj")
    assert (shown["micro_batch_size"], shown["learning_rate"]) == ("whole batch", "by the model's width")
    assert settings(TrainingConfig(learning_rate=2e-4))["learning_rate"] == "0.0002"


def score(**changes: Any) -> ScoreRow:
    values: dict[str, Any] = {
        "row": 7, "rank": 3, "n": 2, "mu": 1.5, "mu_low": 0.5, "mu_high": 2.5, "z": 4.6, "z_reference": 1.0,
        "p": 1e-5, "q": 0.002, "flagged": True, "group": None,
    }  # fmt: skip
    return ScoreRow(**(values | changes))


def test_a_findings_numbers_in_words(summary_of: MakeSummary) -> None:
    words = dict(finding_words(score(), summary_of()))
    assert words["Verdict"] == "Flagged, rank 3 of 340: its q is at most the audit's target of 0.05."
    assert "5.0 null scales above the middle" in words["Z"], "(4.6 - 0.1) / 0.9"
    assert "1.0 × 10⁻⁵" in words["p"]
    assert "more likely" in words["mu"]
    assert "0.50 to 2.50" in words["mu"]
    assert "less than toward the unwanted" in words["Reference"]
    assert words["Observed"] == "2 times after warm-up."


@pytest.mark.parametrize(
    ("low", "high", "meaning"),
    [(-0.5, 2.5, "holds zero"), (-3.0, -1.0, "less likely"), (None, None, "without an interval")],
)
def test_what_an_interval_means(summary_of: MakeSummary, low: float | None, high: float | None, meaning: str) -> None:
    assert meaning in dict(finding_words(score(mu_low=low, mu_high=high), summary_of()))["mu"]


def test_a_sample_nearer_to_the_references_may_be_a_false_alarm(summary_of: MakeSummary) -> None:
    assert "possible false alarm" in dict(finding_words(score(z_reference=5.2), summary_of()))["Reference"]


def test_a_sample_never_observed_claims_nothing(summary_of: MakeSummary) -> None:
    nothing = dict.fromkeys(("mu_low", "mu_high", "z", "z_reference", "p", "q"))
    words = dict(finding_words(score(n=0, flagged=False, **nothing), summary_of()))
    assert set(words) == {"Verdict", "mu", "Observed"}
    assert words["Verdict"].startswith("Not scored")
