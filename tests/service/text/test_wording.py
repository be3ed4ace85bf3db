"""Sentences say what the numbers say."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from service.contract.protocol import Stage
from service.contract.results import NullFit, ProbeSummary, ScoreRow, Summary
from service.contract.spec import TrainingConfig
from service.text.wording import (
    ago,
    claims,
    counted,
    data_size,
    decimal,
    duration,
    effect,
    exact_moment,
    finding_words,
    probability,
    remaining,
    seed_words,
    settings,
    shown_stage,
    verdict,
)
from tests.support.summaries import make_probe_summary

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
            {"flagged": 0},
            "Finetooth flags none of 340 samples: at q = 0.05 no sample stands out from the rest.",
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
    ("value", "shown"),
    [(None, "–"), (0.0, "0.00"), (0.214, "0.21"), (0.0051, "0.01"), (0.0042, "0.004"), (-0.00037, "−0.0004"),
     (6e-7, "0.000001"), (4e-7, "0.00"), (-3.5, "−3.50")],
)  # fmt: skip
def test_an_effect_that_is_small_is_not_shown_as_none(value: float | None, shown: str) -> None:
    assert effect(value) == shown


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
        "probe_no": 0, "row": 7, "rank": 3, "n": 2, "strongest_probe": 1, "mu": 1.5, "mu_low": 0.5, "mu_high": 2.5,
        "mu_composed": 2.9, "z": 4.6, "z_reference": 1.0, "side": None, "p": 1e-5, "q": 0.002, "flagged": True,
        "cluster": 7, "group": None,
    }  # fmt: skip
    return ScoreRow(**(values | changes))


def test_which_views_spoke(summary_of: MakeSummary) -> None:
    def said(gradient: float, representation: float) -> str:
        return dict(finding_words(score(z_gradient=gradient, z_representation=representation), summary_of()))["Views"]

    assert said(3.4, 4.9).startswith("It stands out by gradients (3.4) and by representations (4.9)")
    assert said(0.8, 4.9).startswith("It stands out by representations (4.9), and not by gradients (0.8)")
    assert said(0.8, 0.1).startswith("It stands out neither by gradients (0.8) nor by representations (0.1)")
    assert "Views" not in dict(finding_words(score(), summary_of()))


def test_of_what_kind_it_is(summary_of: MakeSummary) -> None:
    def said(**changes: float) -> str:
        return dict(finding_words(score(**changes), summary_of()))["Kind"]

    assert said(probability_unwanted=0.97, probability_fair=0.004) == (
        "97 % that it is of the unwanted kind, less than 1 % that it is a fair answer on the topic; the rest is the "
        "bulk's."
    )
    assert said(probability_unwanted=0.999).startswith("More than 99 % that it is of the unwanted kind; the rest")
    assert "Kind" not in dict(finding_words(score(), summary_of()))


def test_a_findings_numbers_in_words(summary_of: MakeSummary) -> None:
    words = dict(finding_words(score(), summary_of()))
    assert words["Flag"] == "Flagged, rank 3 of 340: its q is at most the audit's target of 0.05."
    assert "5.0 times the usual spread above the middle" in words["Z"], "(4.6 - 0.1) / 0.9"
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


def test_the_probe_that_speaks_most_gives_the_null(summary_of: MakeSummary) -> None:
    other = make_probe_summary(null=NullFit(location=2.6, scale=0.5, degrees_of_freedom=15.0))
    summary = summary_of(probes=(make_probe_summary(), other))
    assert "4.0 times the usual spread above" in dict(finding_words(score(strongest_probe=2), summary))["Z"]


@pytest.mark.parametrize(
    ("side", "says"), [("toward", "unwanted"), ("against", "good behaviour"), ("both", "side it takes is open")]
)
def test_a_side_is_told(summary_of: MakeSummary, side: str, says: str) -> None:
    assert says in dict(finding_words(score(side=side), summary_of()))["Side"]
    assert "Side" not in dict(finding_words(score(), summary_of()))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"q": 0.2}, "above the audit's target"),
        ({"q": 0.01, "side": "against"}, "leans to the good answers of the probe"),
        ({"q": 0.2, "side": "against"}, "leans to the good answers of the probe"),
    ],
)
def test_why_a_sample_is_not_flagged(summary_of: MakeSummary, changes: dict[str, Any], why: str) -> None:
    said = dict(finding_words(score(flagged=False, **changes), summary_of()))["Flag"]
    assert said.startswith("Not flagged, rank 3 of 340")
    assert why in said


def test_a_trusted_sample_has_a_z_and_no_p(summary_of: MakeSummary) -> None:
    words = dict(finding_words(score(flagged=False, p=None, q=None), summary_of()))
    assert words["Flag"] == "Not tested: it is one of the samples known to be clean."
    assert "Z" in words


def test_conformal_p_values_are_ranks_among_trusted_samples(summary_of: MakeSummary) -> None:
    null = NullFit(family="conformal", location=0.0, scale=1.0, degrees_of_freedom=15.0)
    words = dict(finding_words(score(), summary_of(probes=(make_probe_summary(null=null),))))
    assert "rank among the samples that are known to be clean" in words["p"]


@pytest.mark.parametrize(
    ("stage", "step", "shown"),
    [
        (Stage.LOADING, "train:0", Stage.LOADING),
        (Stage.LOADING, "combine", Stage.SCORING),
        (Stage.PREPARING, "combine", Stage.SCORING),
        (Stage.PUBLISHING, "combine", Stage.PUBLISHING),
        (None, None, None),
    ],
)
def test_the_stages_of_an_audit_do_not_go_back_for_its_last_step(
    stage: Stage | None, step: str | None, shown: Stage | None
) -> None:
    assert shown_stage(stage, step) == shown


def test_the_seed_is_told_where_there_are_several() -> None:
    assert [seed_words(number, 3) for number in (1, 3, 4)] == [
        "seed 1 of 3",
        "seed 3 of 3",
        "all 3 seeds together",
    ]
    assert seed_words(1, 1) == seed_words(2, 1) == ""


def test_a_sample_never_observed_claims_nothing(summary_of: MakeSummary) -> None:
    nothing = dict.fromkeys(("mu_low", "mu_high", "z", "z_reference", "p", "q"))
    words = dict(finding_words(score(n=0, flagged=False, **nothing), summary_of()))
    assert set(words) == {"Flag", "mu", "Observed"}
    assert words["Flag"].startswith("Not scored")


def test_what_the_flags_claim_is_a_rate_and_no_promise(
    summary_of: MakeSummary, probe_of: Callable[..., ProbeSummary]
) -> None:
    rate, threshold, reference = claims(summary_of(q=0.1))
    assert "at most 10 %" in rate
    assert "no promise for this one" in rate
    assert "a Z of at least 2.50" in threshold
    assert "good answers on the topic are not flagged" in reference
    nothing = probe_of(flagged=0, threshold_z=None, has_reference=False)
    assert claims(summary_of(flagged=0, probes=(nothing,))) == claims(summary_of())[:1]
    # Of several probes each has a threshold of its own, which stands with it.
    assert len(claims(summary_of(probes=(probe_of(), probe_of())))) == 1


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (4246, "4.2 kB"), (123_456_789, "123 MB"), (20 * 2**30, "21.5 GB")],
)
def test_a_size_is_told_in_units_that_people_know(size: float, shown: str) -> None:
    assert data_size(size) == shown


@pytest.mark.parametrize(
    ("away", "words"),
    [
        (timedelta(seconds=10), "just now"),
        (timedelta(seconds=-10), "in a moment"),
        (timedelta(seconds=70), "1 minute ago"),
        (timedelta(minutes=59), "59 minutes ago"),
        (timedelta(minutes=59, seconds=40), "1 hour ago"),
        (timedelta(hours=-11), "in 11 hours"),
        (timedelta(hours=23, minutes=40), "1 day ago"),
        (timedelta(days=30), "30 days ago"),
        (timedelta(days=31), "2026-10-29"),
    ],
)
def test_how_long_ago(away: timedelta, words: str) -> None:
    now = datetime(2026, 11, 29, 12, 30, tzinfo=UTC)
    assert ago(now - away, now) == words


def test_exactly_when_is_in_utc_to_the_second() -> None:
    elsewhere = datetime(2026, 11, 29, 13, 30, 7, tzinfo=timezone(timedelta(hours=2)))
    assert exact_moment(elsewhere) == "2026-11-29 11:30:07 UTC"
