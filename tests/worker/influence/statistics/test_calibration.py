"""Tail counts, QQ points and warnings: quiet on nulls that hold, loud on those that do not."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator
from scipy.stats import t

from tests.support.simulation import NULLS
from worker.influence.statistics.calibration import calibrate, calibrate_placebos, misfits
from worker.influence.statistics.null_distribution import Null, fit_null, tail_degrees_of_freedom

ROWS, DIRECTIONS, ITEMS = 500, 20, 12


def test_counts_and_ranges_are_binomial() -> None:
    null = Null(1.0, 2.0, 13.0)
    p = np.r_[np.full(4, 0.0005), np.full(6, 0.005), np.full(20, 0.03), np.linspace(0.06, 1 - 1e-6, 970)]
    found = calibrate(np.r_[np.nan, 1.0 + 2.0 * t.isf(p, 13)], null)
    assert found.samples == 1000
    assert [(tail.p, tail.observed, tail.expected) for tail in found.tails] == [
        (0.05, 30, 50.0), (0.01, 10, 10.0), (0.001, 4, 1.0)
    ]  # fmt: skip
    assert [(tail.low, tail.high) for tail in found.tails] == [(37, 64), (4, 17), (0, 3)]


@pytest.mark.parametrize("size", [150, 20_000])
def test_qq_points_lie_on_the_diagonal_of_a_null_that_fits(size: int) -> None:
    null = Null(-1.0, 0.5, 13.0)
    z = -1.0 + 0.5 * np.random.default_rng(0).standard_t(13, size=size)
    found = calibrate(z, null)
    assert len(found.qq_expected) == len(found.qq_observed) == min(size, len(found.qq_expected)) <= 200
    expected, observed = np.array(found.qq_expected), np.array(found.qq_observed)
    assert (np.diff(expected) > 0).all()
    assert (np.diff(observed) >= 0).all()
    middle = np.abs(expected) < 2
    np.testing.assert_allclose(observed[middle], expected[middle], atol=0.05 if size > 1000 else 0.5)
    assert observed[-1] == pytest.approx((z.max() + 1.0) / 0.5)


def test_copies_of_a_direction_widen_the_range() -> None:
    """20 equal directions say no more than one: the range grows with the square root of the dependence."""
    z = np.random.default_rng(1).normal(size=500)
    one, copies = calibrate_placebos(z[None], 13.0), calibrate_placebos(np.tile(z, (20, 1)), 13.0)
    for single, many in zip(one.tails, copies.tails, strict=True):
        assert many.observed == 20 * single.observed
        assert many.high >= 20 * single.high * 0.9
    assert calibrate_placebos(z[None], 13.0, usable=np.arange(500) < 100).samples == 100


def audit(null: Callable[[Generator, int], np.ndarray], generator: Generator, rows: int) -> set[str]:
    """Codes of the warnings of one audit: 20 placebos over 12 items, a real direction, all of the same null."""
    items = null(generator, ITEMS * rows).reshape(ITEMS, rows)
    placebo = np.stack([items[k % ITEMS] + 0.3 * items[(k + 1 + k // ITEMS) % ITEMS] for k in range(DIRECTIONS)])
    z = null(generator, rows)
    fitted = fit_null(z, degrees_of_freedom=tail_degrees_of_freedom(placebo))
    return {code for code, _ in misfits(z, fitted, placebo=placebo)}


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize(("rows", "audits"), [(ROWS, 400), (5000, 40)])
def test_good_nulls_are_hardly_ever_warned_of(null: str, rows: int, audits: int) -> None:
    """In at most 2 % of audits. Of 40, one may be."""
    generator = np.random.default_rng(2)
    warned = sum(bool(audit(NULLS[null], generator, rows)) for _ in range(audits))
    assert warned <= max(0.02 * audits, 1)


BAD: dict[str, tuple[Callable[[Generator, int], np.ndarray], str]] = {
    "t2": (lambda g, size: g.standard_t(2, size=size), "null_tail"),
    "two kinds of samples": (lambda g, size: g.normal(size=size) + g.choice([-2.2, 2.2], size=size), "null_shape"),
    "a third of equal values": (lambda g, size: g.normal(size=size) * (g.random(size) > 0.33), "null_shape"),
    "a tenth five times as wide": (lambda g, size: g.normal(size=size) * g.choice([1, 5], p=[0.9, 0.1], size=size),
                                   "placebo_tail"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_bad_nulls_are_warned_of(bad: str) -> None:
    law, code = BAD[bad]
    generator = np.random.default_rng(3)
    found = [audit(law, generator, ROWS) for _ in range(40)]
    assert np.mean([code in codes for codes in found]) >= 0.8


def test_poison_is_not_a_misfit() -> None:
    generator = np.random.default_rng(4)
    warned = 0
    for _ in range(100):
        z = generator.normal(size=ROWS)
        z[:50] += 5
        placebo = generator.normal(size=(DIRECTIONS, ROWS))
        placebo[:, :50] += 3 * generator.normal(size=(DIRECTIONS, 1))
        clean = np.arange(ROWS) >= 50
        nu = tail_degrees_of_freedom(placebo, usable=clean)
        warned += bool(misfits(z, fit_null(z, degrees_of_freedom=nu), placebo=placebo, usable=clean))
    assert warned <= 2
