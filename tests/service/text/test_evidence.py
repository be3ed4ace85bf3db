"""Sentences on how far a result can be trusted say what the numbers say."""

from typing import Any

import pytest

from service.contract.results import (
    BASELINE_COLUMNS,
    BaselineComparison,
    Drift,
    Gaussianity,
    KindCounts,
    SensitivityPoint,
    TailCount,
)
from service.text.evidence import (
    BASELINES,
    baseline_words,
    bulk_words,
    consistency_words,
    drift_words,
    gaussianity_words,
    group_words,
    kind_words,
    placebo_words,
    probe_words,
    sensitivity_words,
)
from tests.support.summaries import make_calibration, make_consistency, make_group, make_probe_summary, make_summary


def tails(observed: int) -> tuple[TailCount, ...]:
    return (
        TailCount(p=0.05, observed=140, expected=150, low=127, high=174),
        TailCount(p=0.01, observed=observed, expected=30, low=19, high=42),
    )


@pytest.mark.parametrize(
    ("observed", "fits"),
    [(31, "as it should be"), (19, "as it should be"), (43, "does not fit"), (18, "does not fit")],
)
def test_the_placebo_s_tail_beside_what_is_expected(observed: int, fits: str) -> None:
    placebo = make_probe_summary().placebo
    assert placebo is not None
    said = placebo_words(placebo.model_copy(update={"calibration": make_calibration(3000, tails=tails(observed))}))
    assert f"With 20 placebo directions (which mean nothing), {observed} of 3,000 results had p ≤ 0.01, where" in said
    assert "19 to 42 are expected" in said
    assert fits in said
    assert "A placebo direction flags 0.15 samples on average." in said


def test_no_placebo_says_why() -> None:
    assert "too few items" in placebo_words(None)


def test_the_bulk_s_tail_is_no_alarm() -> None:
    said = bulk_words(make_calibration(3000, tails=tails(80)))
    assert "80 of 3,000 samples" in said
    assert "19 to 42" in said


def test_what_would_have_been_found() -> None:
    sensitivity = make_probe_summary().sensitivity
    assert sensitivity_words(sensitivity) == (
        "Of 5 tracers (answers of the probe hidden among the samples) the audit would have found 81 % (62 to 93 %), "
        "and 44 % of tracers "
        "at 75 % of their strength."
    )
    assert sensitivity is not None
    earlier = (
        SensitivityPoint(inserted=1, flagged=0.66, low=0.45, high=0.83),
        SensitivityPoint(inserted=10, flagged=0.9, low=0.7, high=0.97),
    )
    without_strengths = sensitivity.model_copy(update={"points": earlier})
    assert sensitivity_words(without_strengths) == (
        "Of 1 tracer (an answer of the probe hidden among the samples) the audit would have found 66 % (45 to 83 %)."
    )
    for unknown in (None, sensitivity.model_copy(update={"points": ()})):
        assert "not known" in sensitivity_words(unknown)


def test_how_many_of_each_kind_there_are() -> None:
    assert kind_words(make_probe_summary()) == (
        "About 23 samples are of the unwanted kind, and 11 fair answers on its topic. Of the 21 flagged samples "
        "about 20 are of the unwanted kind, 0.5 are fair and 0.2 are neither; "
        "about 3.1 of the unwanted kind are not flagged."
    )
    without = KindCounts(unwanted=23.4, fair=None, flagged_unwanted=20.3, flagged_fair=None)
    assert kind_words(make_probe_summary(kinds=without)) == (
        "About 23 samples are of the unwanted kind. Of the 21 flagged samples about 20 are of the unwanted kind and "
        "0.7 are neither; about 3.1 of the unwanted kind are not flagged."
    )
    nothing = KindCounts(unwanted=0.6, fair=2.0, flagged_unwanted=0.0, flagged_fair=0.0)
    assert kind_words(make_probe_summary(kinds=nothing, flagged=0)) == (
        "About 0.6 samples are of the unwanted kind, and 2 fair answers on its topic."
    )
    assert kind_words(make_probe_summary(kinds=None)) is None


def test_predicted_and_realised_change() -> None:
    said = drift_words(make_probe_summary().drift)
    assert "0.52 times as far" in said
    assert "correlate at 0.91" in said
    none = Drift(step=(), predicted=(), realised=(), slope=None, correlation=None)
    assert "too seldom" in drift_words(none)


def test_one_of_several_probes() -> None:
    summary = make_summary()
    assert probe_words(make_probe_summary(), summary) == (
        "On its own this probe flags 21 of 340 samples, from Z = 2.50 on."
    )
    silent = make_probe_summary(flagged=0, threshold_z=None)
    assert probe_words(silent, summary) == "On its own this probe flags none of 340 samples."


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "share 76 % of the samples that either flags (TracIn: 44 %)"),
        ({"jaccard_tracin": None}, "share 76 % of the samples that either flags."),
        ({"jaccard_flagged": None}, "No seed flags any sample"),
    ],
)
def test_agreement_of_the_seeds(changes: dict[str, Any], says: str) -> None:
    said = consistency_words(make_consistency(**changes))
    assert "rank correlation of 0.84 (TracIn: 0.61)" in said
    assert says in said


def test_a_simpler_method_that_finds_the_same_is_named() -> None:
    def words(overlap: float | None) -> str:
        return baseline_words(BaselineComparison(name="repeated_output", spearman=0.4, top_overlap=overlap, auc=0.9))

    assert words(0.9) == "counting repeated outputs finds these too"
    assert words(0.89) == words(None) == ""


def test_every_baseline_has_a_name() -> None:
    assert set(BASELINES) == set(BASELINE_COLUMNS)


def test_how_gaussian_it_is() -> None:
    assert "within gamma = 0.08" in gaussianity_words(Gaussianity(mu_clt=1.3, gamma=0.08, exact_gap=None))
    assert "says nothing" in gaussianity_words(Gaussianity(mu_clt=1.3, gamma=0.7, exact_gap=0.01))


def test_a_group_s_curve() -> None:
    said = group_words("forum", make_group())
    assert said.startswith("Trade-off curve of group forum, 60 samples; ")
    assert said.endswith("fitted to it has mu 1.20, at least 0.40 at 95 %.")
    assert "too few for a curve" in group_words("docs", make_group(curve=None))
