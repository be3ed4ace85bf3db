"""Agreement of seeds by hand, and pooling against simulated seeds whose truth is known."""

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from worker.influence.statistics.mu import MuEstimate
from worker.influence.statistics.seeds import consistency, pool_mu, pool_z, seed_correlation, top


def test_agreement_by_hand() -> None:
    z = np.array([[1.0, 2, 3, 4, np.nan], [2.0, 1, 3, 4, 9], [4.0, 3, 2, 1, 9]])
    flagged = np.array([[0, 0, 1, 1, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], dtype=bool)
    found = consistency(z, flagged, -z)
    pairs = [spearmanr(z[0, :4], z[1, :4])[0], spearmanr(z[0, :4], z[2, :4])[0], spearmanr(z[1], z[2])[0]]
    assert found.spearman == pytest.approx(np.mean(pairs))
    # Overlaps 1 of 3, 0 of 2, 0 of 2.
    assert found.jaccard == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert found.other_spearman == pytest.approx(found.spearman)
    # The two largest of -z: rows {0, 1} in both of the first seeds; none in the third, which flags none.
    assert found.other_jaccard == pytest.approx((1 + 0 + 0) / 3)


def test_a_single_seed_and_empty_sets_agree_about_nothing() -> None:
    z = np.arange(5.0)[None]
    none = np.zeros((2, 5), dtype=bool)
    alone = consistency(z, none[:1], z)
    assert np.isnan([alone.spearman, alone.jaccard, alone.other_spearman, alone.other_jaccard]).all()
    two = consistency(np.vstack([z, z]), none, np.vstack([z, z]))
    assert two.spearman == pytest.approx(1)
    assert np.isnan([two.jaccard, two.other_jaccard]).all()


def test_top_takes_as_many_as_asked_and_never_an_unseen_row() -> None:
    values = np.array([[3.0, np.nan, 1.0, 2.0], [np.nan, np.nan, 5.0, np.nan]])
    assert top(values, np.array([2, 3])).tolist() == [[True, False, False, True], [False, False, True, False]]


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_pooled_z_has_unit_spread_in_the_bulk_however_seeds_correlate(rho: float) -> None:
    """Also for rows that only some seeds saw; poison in one row of ten does not disturb it."""
    generator = np.random.default_rng(0)
    rows = 20_000
    common = generator.normal(size=rows)
    z = np.sqrt(rho) * common + np.sqrt(1 - rho) * generator.normal(size=(3, rows))
    poison = np.arange(rows) % 10 == 0
    z[:, poison] += 6
    z = z * np.array([[1.0], [1.3], [0.8]]) + np.array([[0.0], [0.5], [-0.2]])
    z[2, rows // 2 :] = np.nan
    z[:, -1] = np.nan
    assert seed_correlation(z) == pytest.approx(rho, abs=0.08)
    pooled = pool_z(z)
    assert np.isnan(pooled[-1])

    def spread(values: np.ndarray) -> float:
        return float(np.subtract(*np.quantile(values, [0.75, 0.25])) / (2 * norm.ppf(0.75)))

    half = np.arange(rows) < rows // 2
    thrice, twice = pooled[half & ~poison], pooled[~half & ~poison & np.isfinite(pooled)]
    assert spread(thrice) == pytest.approx(1, abs=0.06)
    assert spread(twice) == pytest.approx(1, abs=0.06)
    if rho < 0.9:  # seeds that differ add power: poison stands further out than in one
        assert np.median(pooled[poison]) > 1.1 * np.median(z[0, poison] / spread(z[0, ~poison & np.isfinite(z[0])]))


def test_one_seed_is_left_as_it_is() -> None:
    z = np.array([[3.0, np.nan, 1.0]])
    np.testing.assert_array_equal(pool_z(z), z[0])
    one = MuEstimate(z[0], z[0] - 1, z[0] + 1, np.array([2, 0, 1]))
    assert pool_mu([one]) is one


def test_a_constant_statistic_is_refused() -> None:
    with pytest.raises(ValueError, match="More than half"):
        pool_z(np.array([[1.0] * 11 + [2], np.arange(12.0)]))
    twice = np.tile(np.arange(12.0) ** 2, (2, 1))
    assert seed_correlation(twice) == 1


def seeds_of(generator: np.random.Generator, m: np.ndarray, seeds: int) -> list[MuEstimate]:
    """Noise within the run, and a seed-to-seed part that grows with the row's effect. Intervals of one run would
    hold the first alone.
    """
    effects = []
    for _ in range(seeds):
        mu = m * (1 + 0.3 * generator.normal(size=len(m))) + 0.1 * generator.normal(size=len(m))
        effects.append(MuEstimate(mu, mu - 0.196, mu + 0.196, np.full(len(m), 2)))
    return effects


@pytest.mark.parametrize("seeds", [2, 3])
def test_pooled_intervals_hold_what_other_seeds_would_give(seeds: int) -> None:
    generator = np.random.default_rng(1)
    top_rows = np.arange(300) < 15
    bulk, far, of_one_run = [], [], []
    for _ in range(150):
        m = np.where(top_rows, generator.normal(1.5, 0.3, 300), 0.1 * generator.normal(size=300))
        effects = seeds_of(generator, m, seeds)
        found = pool_mu(effects)
        inside = (found.low <= m) & (m <= found.high)
        bulk.append(inside[~top_rows].mean())
        far.append(inside[top_rows].mean())
        of_one_run.append(((effects[0].low <= m) & (m <= effects[0].high))[top_rows].mean())
        np.testing.assert_allclose(found.mu, np.mean([e.mu for e in effects], axis=0))
    assert 0.93 <= np.mean(bulk) <= 0.97
    slack = 3 * np.std(far) / np.sqrt(len(far))
    assert 0.93 - slack <= np.mean(far) <= 0.97 + slack, np.mean(far)
    assert np.mean(of_one_run) < 0.6


def test_few_rows_take_the_t_of_the_seeds_and_unseen_rows_nothing() -> None:
    mu = np.array([[1.0, 5.0, 0.0], [2.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    n = np.array([[1, 1, 0], [1, 0, 0], [2, 0, 0]])
    found = pool_mu([MuEstimate(a, np.full(3, np.nan), np.full(3, np.nan), b) for a, b in zip(mu, n, strict=True)])
    assert found.mu.tolist() == pytest.approx([7 / 3, 5, 0])
    assert found.n.tolist() == [4, 1, 0]
    half = 4.302652729911275 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert found.high[0] - found.mu[0] == pytest.approx(half, rel=1e-9)
    assert np.isnan(found.low[1:]).all()
