"""The variance function of the rows, fitted to simulated rows whose function is known."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from worker.influence.statistics.row_variance import RowVariance, fit_row_variance

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def rows_of(generator: np.random.Generator, alpha: float, beta: float, rows: int = 500) -> Rows:
    """Mean, sum of squared deviations and n of rows with heavy-tailed means, seen two or three times."""
    m = generator.standard_t(4.4, rows)
    n = generator.integers(2, 4, rows)
    noise = np.sqrt(alpha + beta * m**2)[:, None] * generator.normal(size=(rows, 3))
    seen = np.arange(3) < n[:, None]
    mean = m + np.where(seen, noise, 0).sum(1) / n
    return mean, np.where(seen, (m[:, None] + noise - mean[:, None]) ** 2, 0).sum(1), n


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.15), (0.5, 0.3), (2.0, 0.0)])
def test_the_function_is_found_without_bias(alpha: float, beta: float) -> None:
    generator = np.random.default_rng(0)
    found = [fit_row_variance(*rows_of(generator, alpha, beta)) for _ in range(40)]
    assert np.mean([fit.alpha for fit in found]) == pytest.approx(alpha, rel=0.06)
    assert np.mean([fit.beta for fit in found]) == pytest.approx(beta, rel=0.15, abs=0.02)
    assert np.mean([np.isinf(fit.degrees_of_freedom) for fit in found]) >= 0.9


def test_units_do_not_matter() -> None:
    mean, squares, n = rows_of(np.random.default_rng(1), 1.0, 0.15)
    one, other = fit_row_variance(mean, squares, n), fit_row_variance(1e-7 * mean, 1e-14 * squares, n)
    assert other.alpha == pytest.approx(1e-14 * one.alpha, rel=1e-6)
    assert other.beta == pytest.approx(one.beta, rel=1e-6)


def test_the_interval_holds_the_means_that_are_not_rejected() -> None:
    """Against a fine grid of candidate means, also where the set goes beyond the largest mean."""
    function = RowVariance(1.0, 0.2, np.inf, 6.0, np.zeros((2, 2)))
    estimate, share = np.array([-5.0, 0.0, 0.7, 3.0, 5.9]), np.array([0.5, 1.0, 0.4, 1.0, 1.0])
    low, high = function.interval(estimate, share, np.zeros(5), np.ones(5, dtype=np.int64), extra=0.1)
    candidates = np.linspace(-60, 60, 1_200_001)
    for x, s, a, b in zip(estimate, share, low, high, strict=True):
        allowed = (x - candidates) ** 2 <= norm.ppf(0.975) ** 2 * (s * function.at(candidates) + 0.1)
        assert (a, b) == pytest.approx((candidates[allowed].min(), candidates[allowed].max()), abs=2e-4)


def test_without_a_fit_the_interval_is_students() -> None:
    mean, squares, n = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, 0.8]), np.array([2, 1, 3])
    function = fit_row_variance(mean, squares, n)
    assert function.degrees_of_freedom == 0
    low, high = function.interval(mean, 1 / n, squares, n)
    half = student.ppf(0.975, 2) * np.sqrt(0.8 / 2 / 3)
    assert (low[2], high[2]) == pytest.approx((3 - half, 3 + half))
    assert np.isnan([low[1], high[1]]).all()


def test_rows_that_repeat_exactly_are_certain() -> None:
    n = np.full(50, 2)
    low, high = fit_row_variance(np.arange(50.0), np.zeros(50), n).interval(np.arange(50.0), 1 / n, np.zeros(50), n)
    np.testing.assert_array_equal(low, np.arange(50.0))
    np.testing.assert_array_equal(high, np.arange(50.0))
