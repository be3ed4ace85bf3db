"""Figures of a comparison against scipy and against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, spearmanr

from worker.results.baseline_comparison import BaselineComparison, compare, suffices

VALUES = st.one_of(st.integers(-3, 3).map(float), st.just(float("nan")))
ROWS = st.lists(st.tuples(VALUES, st.booleans(), VALUES), min_size=1, max_size=14)


def one(z: list[float], flagged: list[bool], values: list[float]) -> BaselineComparison:
    return compare(np.array(z), np.array(flagged), {"b": values})[0]


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_every_figure_is_its_definition(rows: list[tuple[float, bool, float]]) -> None:
    z, flagged, values = (np.array(column) for column in zip(*rows, strict=True))
    found = compare(z, flagged, {"b": values})[0]

    both = ~np.isnan(z) & ~np.isnan(values)
    if len(set(z[both])) > 1 and len(set(values[both])) > 1:
        assert found.spearman == pytest.approx(spearmanr(z[both], values[both]).statistic)
    else:
        assert found.spearman is None

    hit, rest = values[flagged & ~np.isnan(values)], values[~flagged & ~np.isnan(values)]
    if len(hit) and len(rest):
        assert found.auc == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a in hit for b in rest]))
        assert found.auc == pytest.approx(mannwhitneyu(hit, rest).statistic / len(hit) / len(rest))
    else:
        assert found.auc is None

    if flagged.any() and not np.isnan(values).all():
        # Over all orders of ties, a row's chance of a place is the share of places left among its equals.
        filled, k = np.where(np.isnan(values), -np.inf, values), int(flagged.sum())
        chance = [
            min(1.0, max(0.0, (k - (filled > value).sum()) / (filled == value).sum())) if value > -np.inf else 0.0
            for value in filled
        ]
        assert found.top_overlap == pytest.approx(np.sum(np.array(chance)[flagged]) / k)
    else:
        assert found.top_overlap is None


def test_a_baseline_that_orders_as_we_do_finds_everything() -> None:
    z = [5.0, 4.0, 0.1, -0.2, 0.3, 0.0]
    flagged = [True, True, False, False, False, False]
    assert one(z, flagged, [10 * value for value in z]) == BaselineComparison("b", pytest.approx(1.0), 1.0, 1.0)
    assert one(z, flagged, [-value for value in z]) == BaselineComparison("b", pytest.approx(-1.0), 0.0, 0.0)
    assert one(z, flagged, [1.0] * 6) == BaselineComparison("b", None, pytest.approx(2 / 6), 0.5)


def test_nothing_flagged_and_nothing_scored_give_none() -> None:
    assert one([1.0, 2.0], [False, False], [2.0, 3.0]) == BaselineComparison("b", pytest.approx(1.0), None, None)
    nan = float("nan")
    assert one([1.0, 2.0], [True, False], [nan, nan]) == BaselineComparison("b", None, None, None)
    assert compare(np.empty(0), np.empty(0, dtype=bool), {"b": []}) == [BaselineComparison("b", None, None, None)]


def test_a_flagged_row_that_the_baseline_did_not_score_is_not_found_by_it() -> None:
    found = one([5.0, 4.0, 0.0, 0.1], [True, True, False, False], [9.0, float("nan"), 1.0, 2.0])
    assert found.top_overlap == 0.5
    assert found.auc == 1.0


def test_suffices_names_what_finds_the_flagged_rows_too() -> None:
    generator = np.random.default_rng(1)
    flagged = np.arange(200) < 20
    z = generator.normal(size=200) + 6 * flagged
    noisy = z + generator.normal(size=200)
    baselines = {"counting": flagged * 3.0, "noisy": noisy, "length": generator.normal(size=200), "equal": np.ones(200)}
    assert suffices(compare(z, flagged, baselines)) == ("counting", "noisy")
    most = np.arange(200) < 190
    assert suffices(compare(z, most, {"equal": np.ones(200)})) == ()
    assert suffices(compare(z, np.zeros(200, dtype=bool), baselines)) == ()
