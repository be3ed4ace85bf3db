"""The statistic and the flags against distributions that are known."""

import numpy as np
import pytest
from scipy.stats import kstest

from tests.support.simulation import epochs_of, observe
from worker.influence.observations import Observations
from worker.influence.statistics.detection import detect, statistic


def test_z_is_standard_normal_where_nothing_is_planted() -> None:
    generator = np.random.default_rng(0)
    z, n = statistic(*epochs_of(generator, generator.normal(size=4000), 2), rows=4000)
    assert (n == 2).all()
    assert kstest(z, "norm").pvalue > 0.01


def test_z_has_one_scale_for_rows_seen_once_and_often() -> None:
    """Epochs of a sample correlate (here at 0.5): the scale must know n."""
    generator = np.random.default_rng(1)
    rows = 6000
    person = generator.normal(size=rows)
    row = np.concatenate([np.arange(rows), np.arange(rows // 2), np.arange(rows // 2)])
    observations, steps = observe(
        person[row] + generator.normal(size=len(row)), row, np.zeros(len(row), dtype=np.int64)
    )
    z, n = statistic(observations, steps, rows=rows)
    assert z[n == 1].std() == pytest.approx(1.0, abs=0.06)
    assert z[n == 3].std() == pytest.approx(1.0, abs=0.06)


def test_z_does_not_depend_on_scale_or_offset_of_a_block() -> None:
    generator = np.random.default_rng(2)
    observations, steps = epochs_of(generator, generator.normal(size=200), 2)
    scale, offset = generator.uniform(0.1, 9, 5)[steps.block], generator.normal(size=5)[steps.block]
    changed = observations.alignment * scale[:, None] + offset[:, None]
    other = Observations(observations.row, observations.step, changed, changed)
    np.testing.assert_allclose(statistic(other, steps, rows=200)[0], statistic(observations, steps, rows=200)[0])


def test_rows_never_observed_have_no_z_no_p_and_no_flag() -> None:
    generator = np.random.default_rng(3)
    observations, steps = epochs_of(generator, generator.normal(size=100), 1)
    z, n = statistic(observations, steps, rows=103)
    found = detect(z, n, q=0.05)
    assert np.isnan(found.z[100:]).all()
    assert np.isnan(found.p[100:]).all()
    assert np.isnan(found.q[100:]).all()
    assert not found.flagged[100:].any()
    assert np.isfinite(found.p[:100]).all()


def test_signals_without_any_spread_are_an_error() -> None:
    observations, steps = observe(np.zeros(40), np.arange(40), np.zeros(40, dtype=np.int64))
    with pytest.raises(ValueError, match="nothing can be told apart"):
        statistic(observations, steps, rows=40)


def test_flags_are_benjamini_hochberg() -> None:
    generator = np.random.default_rng(5)
    z = np.r_[generator.normal(size=480), 5 + generator.normal(size=20)]
    found = detect(z, np.ones(500, dtype=np.int64), q=0.1)
    order = np.argsort(found.p)
    passed = np.flatnonzero(found.p[order] <= 0.1 * np.arange(1, 501) / 500)
    by_hand = np.zeros(500, dtype=bool)
    by_hand[order[: passed.max() + 1]] = True
    np.testing.assert_array_equal(found.flagged, by_hand)
    assert found.flagged[480:].sum() >= 18
