"""Error rates over 400 simulated audits a case: what q and p promise, and where they cannot."""

import numpy as np
import pytest
from numpy.random import Generator
from scipy.stats import false_discovery_control, t

from tests.support.simulation import NULLS, Tally
from worker.influence.statistics.detection import detect
from worker.influence.statistics.null_distribution import (
    SCALE_EFFICIENCY,
    attainable_degrees_of_freedom,
    fit_location_and_scale,
)

AUDITS, ROWS, Q = 400, 500, 0.05
HARD = 25
"""Hard negatives in an audit: good answers on the probe's topic, 1.1 standard deviations out as measured."""


def p_values(z: np.ndarray) -> np.ndarray:
    """[audits, rows]: the p of `detect`, of all audits at once."""
    location, scale = fit_location_and_scale(z)
    tail = attainable_degrees_of_freedom(SCALE_EFFICIENCY * z.shape[1])
    return np.asarray(t.sf((z - location[:, None]) / scale[:, None], tail))


def flags(z: np.ndarray, q: float = Q) -> np.ndarray:
    return np.asarray(false_discovery_control(p_values(z), axis=1, method="bh") <= q)


def audits(generator: Generator, null: str, planted: int, hard: int = 0, rows: int = ROWS) -> np.ndarray:
    """z [audits, rows]: planted rows 5 standard deviations out with unit spread, hard negatives, then the bulk."""
    z = NULLS[null](generator, AUDITS * rows).reshape(AUDITS, rows)
    z[:, :planted] = 5 + generator.normal(size=(AUDITS, planted))
    z[:, planted : planted + hard] += 1.1
    return z


def test_detect_gives_the_flags_that_are_counted_here() -> None:
    z = audits(np.random.default_rng(0), "skewed 0.23", 25)[:5]
    for values, together in zip(z, flags(z), strict=True):
        np.testing.assert_array_equal(detect(values, np.ones(ROWS, dtype=np.int64), q=Q).flagged, together)


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("poison", [0.01, 0.05, 0.1, 0.2])
def test_false_discovery_rate_is_held(null: str, poison: float) -> None:
    planted = round(ROWS * poison)
    tally = Tally()
    is_planted = np.arange(ROWS) < planted
    for flagged in flags(audits(np.random.default_rng(6), null, planted)):
        tally.add(flagged, ~is_planted, is_planted)
    assert tally.power > 0.6
    assert tally.fdr <= Q + 0.01


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("poison", [0.01, 0.05, 0.1, 0.2])
def test_false_discovery_rate_is_held_beside_hard_negatives(null: str, poison: float) -> None:
    """Promised is the bound for the bulk, which hard negatives are not of; it holds here when they count as false, too.

    That is so because they are near (1.1) and few (5 %), and widen the fitted null: with ones further out it would not.
    """
    planted = round(ROWS * poison)
    row = np.arange(ROWS)
    is_planted, is_hard = row < planted, (row >= planted) & (row < planted + HARD)
    bulk, all_clean = Tally(), Tally()
    for flagged in flags(audits(np.random.default_rng(7), null, planted, HARD)):
        bulk.add(flagged, ~is_planted & ~is_hard, is_planted)
        all_clean.add(flagged, ~is_planted, is_planted)
    assert bulk.fdr <= Q + 0.01
    assert all_clean.fdr <= Q + 0.01
    assert all_clean.false > bulk.false


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("rows", [200, 500, 2000])
def test_a_clean_audit_rarely_flags_anything(null: str, rows: int) -> None:
    flagged = flags(audits(np.random.default_rng(8), null, 0, rows=rows)).any(1)
    assert flagged.mean() <= Q + 0.01


def tail_ratio(z: np.ndarray, level: float) -> tuple[float, float]:
    """Share of p at or below the level over the level, and its standard error.

    The rows of an audit share its fitted null, so whole audits are the independent units of the error.
    """
    share = (p_values(z) <= level).mean(1)
    return float(share.mean() / level), float(share.std(ddof=1) / np.sqrt(len(share)) / level)


EXCESS = {("skewed 0.23", 0.05): 1.20, ("skewed 0.23", 0.01): 1.20, ("t20", 0.05): 1.0, ("t20", 0.01): 1.0}
"""Where more than 1: p is too small there by as much, which a symmetric null fitted to a skewed bulk must be."""


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("level", [0.05, 0.01, 0.001])
def test_p_is_not_too_small_where_nothing_is_planted(null: str, level: float) -> None:
    """Within 99 % bounds, from above: for a Gaussian null p is too large on purpose (a quarter at 0.001)."""
    ratio, error = tail_ratio(audits(np.random.default_rng(9), null, 0), level)
    assert ratio - 2.33 * error <= EXCESS.get((null, level), 1.0)


def test_a_heavier_tail_than_assumed_breaks_the_bound() -> None:
    """Of a t8 null without placebos: three times too many p at or below 0.001. Placebos exist for this."""
    z = np.random.default_rng(10).standard_t(8, size=(AUDITS, ROWS))
    ratio, _ = tail_ratio(z, 0.001)
    assert 2.0 < ratio < 4.0


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("rows", [20, 50, 100, 200])
def test_small_audits_hold_their_rates(null: str, rows: int) -> None:
    """Below 500 rows the tail is widened for the error of the scale; 13 degrees of freedom gave up to 0.23 at 50 rows.

    Promised from 200 rows on, below which audits warn: a skewed null of 50 rows reaches 0.066.
    """
    planted = max(2, rows // 20)
    is_planted = np.arange(rows) < planted
    tally = Tally()
    generator = np.random.default_rng(11)
    for _ in range(3):
        assert flags(audits(generator, null, 0, rows=rows)).any(1).mean() <= Q + 0.01
        for flagged in flags(audits(generator, null, planted, rows=rows)):
            tally.add(flagged, ~is_planted, is_planted)
    assert tally.fdr <= (Q + 0.01 if rows >= 200 else Q + 0.02)
