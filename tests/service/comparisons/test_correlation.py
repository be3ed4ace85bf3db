"""Spearman's coefficient agrees with SciPy's, which the service itself may not import."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from service.comparisons.correlation import spearman, spearman_interval

VALUES = st.integers(-20, 20).map(lambda n: n / 4)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=60))
def test_scipy_finds_the_same(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Pairs of normal variables of correlation r have Spearman's 6 / pi * asin(r / 2)."""
    draw = random.Random(5)
    r = 0.6
    truth = 6 / math.pi * math.asin(r / 2)
    held = 0
    for _ in range(400):
        first = [draw.gauss(0, 1) for _ in range(80)]
        second = [r * x + math.sqrt(1 - r * r) * draw.gauss(0, 1) for x in first]
        value = spearman(first, second)
        assert value is not None
        interval = spearman_interval(value, 80)
        assert interval is not None
        held += interval[0] <= truth <= interval[1]
    # Four standard errors of a share of 0.95 in 400.
    assert 0.95 - 4 * 0.011 < held / 400 <= 1


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_perfect_agreement(value: float) -> None:
    assert spearman([1, 2, 3], [1, 2, 3] if value > 0 else [3, 2, 1]) == value
    assert spearman_interval(value, 100) == (value, value)


def test_too_few() -> None:
    assert spearman_interval(0.5, 9) is None
