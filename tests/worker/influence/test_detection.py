"""The statistic, its null and the flags against distributions that are known."""

import numpy as np
import pytest
from numpy.random import Generator
from scipy.stats import kstest, skewnorm, t

from worker.influence.detection import Null, detect, fit_null, statistic
from worker.influence.observations import Observations, Steps


def observe(signal: np.ndarray, row: np.ndarray, block: np.ndarray) -> tuple[Observations, Steps]:
    """One step a draw."""
    count = len(signal)
    steps = Steps(np.ones(count), np.ones(count), np.ones(count, dtype=np.int64), block)
    return Observations(row, np.arange(count), signal[:, None], signal[:, None]), steps


def epochs_of(generator: Generator, person: np.ndarray, epochs: int, noise: float = 1.0) -> tuple[Observations, Steps]:
    rows = len(person)
    row = np.concatenate([generator.permutation(rows) for _ in range(epochs)])
    return observe(person[row] + noise * generator.normal(size=len(row)), row, np.arange(len(row)) // 80)


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
    with pytest.raises(ValueError, match="at least 10"):
        fit_null(np.arange(9.0))
    with pytest.raises(ValueError, match="more than half"):
        fit_null(np.r_[np.zeros(30), 1.0, 2.0])


@pytest.mark.parametrize(("poison", "wider"), [(0.0, 1.04), (0.1, 1.12), (0.3, 1.35)])
def test_null_is_found_under_contamination(poison: float, wider: float) -> None:
    """Much poison moves the fitted null outward, which costs power and never an error rate."""
    generator = np.random.default_rng(4)
    clean, planted = round(4000 * (1 - poison)), round(4000 * poison)
    null = fit_null(np.r_[2.0 + 3.0 * generator.normal(size=clean), 2.0 + 3.0 * (5 + generator.normal(size=planted))])
    assert 2.0 - 0.15 <= null.location <= 2.0 + 3.0 * wider - 3.0 + 0.3
    assert 0.96 * 3.0 <= null.scale <= wider * 3.0


def test_p_is_the_tail_of_the_fitted_student_t() -> None:
    null = Null(0.5, 2.0, 15.0)
    assert null.sf(np.array([4.5]))[0] == pytest.approx(t.sf(2.0, 15))
    grid = np.linspace(-60, 60, 200_001)
    assert np.trapezoid(null.pdf(grid), grid) == pytest.approx(1.0, abs=1e-6)


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


NULLS = {
    "gaussian": lambda g, size: g.normal(size=size),
    "mildly skewed": lambda g, size: skewnorm.rvs(1.3, size=size, random_state=g),
    "t20": lambda g, size: g.standard_t(20, size=size),
}


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("poison", [0.01, 0.05, 0.1, 0.2])
def test_false_discovery_rate_is_held(null: str, poison: float) -> None:
    """Pooled over 200 simulated audits, sum of false flags over sum of flags is at most q + 0.01."""
    generator = np.random.default_rng(6)
    false = flags = 0
    planted = round(500 * poison)
    for _ in range(200):
        z = NULLS[null](generator, 500)
        z[:planted] = z.std() * (5 + generator.normal(size=planted))
        found = detect(z, np.ones(500, dtype=np.int64), q=0.05)
        false += int(found.flagged[planted:].sum())
        flags += int(found.flagged.sum())
    assert flags > 0
    assert false / flags <= 0.06


@pytest.mark.parametrize("null", NULLS)
def test_a_clean_audit_rarely_flags_anything(null: str) -> None:
    generator = np.random.default_rng(7)
    audits = [detect(NULLS[null](generator, 500), np.ones(500, dtype=np.int64), q=0.05) for _ in range(300)]
    assert np.mean([audit.flagged.any() for audit in audits]) <= 0.10
