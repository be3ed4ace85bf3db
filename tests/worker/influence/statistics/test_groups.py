"""Group influence against simulated rows whose truth is known."""

import numpy as np
import pytest
from numpy.random import Generator
from scipy.stats import beta as beta_law
from scipy.stats import norm

from worker.influence.statistics.groups import GroupCurve, flagged_group_curves, group_curve


def rows_of(
    generator: Generator, *, members: int, rest: int, mu: float = 0.0, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Statistics in units of their own: the rest N(5, 2^2), the group mu standard deviations above."""
    statistic = generator.normal(size=members + rest)
    flags = np.arange(members + rest) < members
    statistic[flags] = mu + spread * statistic[flags]
    order = generator.permutation(members + rest)
    return 5 + 2 * statistic[order], flags[order]


def test_the_curve_is_the_error_rates_of_every_threshold() -> None:
    generator = np.random.default_rng(0)
    statistic, members = rows_of(generator, members=10, rest=40, mu=1.0)
    found = group_curve(statistic, members)
    assert (found.members, found.rest) == (10, 40)
    expected = {(0.0, 1.0)} | {
        (np.mean(statistic[~members] >= tau), np.mean(statistic[members] < tau)) for tau in statistic
    }
    points = list(zip(found.alpha, found.beta, strict=True))
    assert len(points) == 51
    for point in points:
        assert min(np.hypot(point[0] - a, point[1] - b) for a, b in expected) < 1e-12
    large = group_curve(*rows_of(generator, members=100, rest=2000, mu=1.0))
    assert len(large.alpha) == len(large.beta) <= 200
    assert (large.alpha[0], large.beta[0], large.alpha[-1], large.beta[-1]) == (0.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("mu", [-1.5, 0.0, 0.7, 2.5])
def test_a_shift_is_recovered_with_its_sign(mu: float) -> None:
    found = group_curve(*rows_of(np.random.default_rng(1), members=4000, rest=40_000, mu=mu))
    assert found.mu == pytest.approx(mu, abs=0.06)
    assert found.mu_fit == pytest.approx(mu, abs=0.06)
    assert found.low < mu < found.high
    assert found.high - found.low < 0.1
    assert found.spread_ratio == pytest.approx(1.0, abs=0.05)
    assert mu - 0.4 < found.lower_bound < mu
    assert found.fit_gap < found.resolution
    assert found.asymmetry < found.resolution
    assert found.asymmetry_fit < 0.02


def test_the_interval_covers_with_unequal_variances_too() -> None:
    generator = np.random.default_rng(2)
    for members, spread, mu in ((5, 1.0, 1.0), (20, 2.5, 2.0), (20, 0.4, 3.0)):
        found = [group_curve(*rows_of(generator, members=members, rest=150, mu=mu, spread=spread)) for _ in range(400)]
        covered = np.mean([g.low <= mu <= g.high for g in found])
        assert 0.92 <= covered <= 0.98


def test_unequal_variances_are_told_and_bend_the_curve() -> None:
    """Two normal laws: beta(alpha) = Phi((Phi^-1(1 - alpha) - mu) / ratio) crosses its mirror image."""
    mu, ratio = 1.0, 3.0
    found = group_curve(*rows_of(np.random.default_rng(3), members=8000, rest=40_000, mu=mu, spread=ratio))
    assert found.spread_ratio == pytest.approx(ratio, rel=0.05)
    x = np.linspace(-12, 12, 4001)
    alpha, beta = norm.sf(x), norm.cdf((x - mu) / ratio)
    along_beta = np.abs(beta - np.interp(alpha, beta, alpha))
    along_alpha = np.abs(alpha - np.interp(beta, alpha[::-1], beta[::-1]))
    assert found.asymmetry_fit == pytest.approx(np.minimum(along_beta, along_alpha).max(), abs=0.03)
    assert found.asymmetry > 0.1 > found.resolution
    assert found.fit_gap > found.resolution


def test_the_lower_bound_is_below_the_true_mu_in_95_of_100_runs_at_least() -> None:
    generator = np.random.default_rng(4)
    for mu, members, rest, runs in ((1.5, 24, 300, 1000), (0.0, 24, 300, 300), (3.0, 100, 400, 300)):
        bounds = np.array(
            [group_curve(*rows_of(generator, members=members, rest=rest, mu=mu)).lower_bound for _ in range(runs)]
        )
        assert np.mean(bounds <= mu) >= 0.95
        if mu > 0:
            # It is a bound worth having: above chance for a group that is there.
            assert np.median(bounds) > 0.3


def test_the_lower_bound_is_the_formula_at_one_threshold() -> None:
    """One row outside above and one member: by hand, with 2 * 1 shares of the level where only rank 1 exists."""
    statistic = np.array([1.0, 0.0, 2.0, 3.0, 4.0, 5.0])
    members = np.array([False, False, True, True, True, True])
    found = group_curve(statistic, members)
    # The rest has two rows: ranks 1 and 2, thresholds 1 and 0, false positives 1 and 2, no false negatives.
    level = 0.05 / (2 * 2)
    misses = beta_law.isf(level, 1, 4)
    assert found.lower_bound == pytest.approx(norm.isf(beta_law.isf(level, 2, 1)) - norm.ppf(misses))


def test_the_maximum_over_thresholds_finds_much_where_nothing_is() -> None:
    generator = np.random.default_rng(5)
    maximum, difference = [], []
    for _ in range(300):
        statistic, members = rows_of(generator, members=3, rest=300)
        paper = group_curve(statistic, members, estimator="threshold_max")
        assert paper.estimator == "threshold_max"
        assert np.isnan(paper.low)
        maximum.append(abs(paper.mu))
        difference.append(abs(group_curve(statistic, members).mu))
    assert np.median(maximum) == pytest.approx(2.0, abs=0.15)
    assert np.median(difference) == pytest.approx(0.4, abs=0.08)


def test_ranks_alone_decide_the_fit_and_one_outlier_does_not() -> None:
    statistic, members = rows_of(np.random.default_rng(6), members=50, rest=500, mu=1.0)
    found = group_curve(statistic, members)
    assert group_curve(np.exp(statistic / 4), members).mu_fit == pytest.approx(found.mu_fit)
    wild = statistic.copy()
    wild[np.flatnonzero(~members)[0]] = 1e6
    assert group_curve(wild, members).mu_fit == pytest.approx(found.mu_fit, abs=0.05)


def test_selecting_and_measuring_on_one_seed_is_circular_and_on_two_is_not() -> None:
    generator = np.random.default_rng(7)
    circular, crossed = [], []
    for _ in range(60):
        z = {seed: generator.normal(size=480) for seed in (1, 2)}
        top = {seed: values >= np.sort(values)[-24] for seed, values in z.items()}
        circular.append(group_curve(z[1], top[1]).mu)
        crossed.extend(curve.mu for curve in flagged_group_curves(z, top).values())
    assert np.mean(circular) == pytest.approx(2.5, abs=0.2)
    assert abs(np.mean(crossed)) < 4 / np.sqrt(24 * len(crossed))


def test_flagged_sets_are_measured_by_every_other_seed() -> None:
    generator = np.random.default_rng(8)
    poisoned = np.arange(400) < 20
    z = {seed: generator.normal(size=400) + 4.0 * poisoned for seed in (11, 12, 13)}
    flagged = {seed: values > 3 for seed, values in z.items()}
    flagged[13] = np.zeros(400, dtype=bool)
    curves = flagged_group_curves(z, flagged)
    assert set(curves) == {(11, 12), (11, 13), (12, 11), (12, 13)}
    for (selecting, _), curve in curves.items():
        assert isinstance(curve, GroupCurve)
        assert curve.members == flagged[selecting].sum()
        assert curve.mu > 2.5


def test_one_run_cannot_pose_as_two() -> None:
    z = np.random.default_rng(9).normal(size=100)
    with pytest.raises(ValueError, match="second seed"):
        flagged_group_curves({1: z}, {1: z > 1})
    with pytest.raises(ValueError, match="one run"):
        flagged_group_curves({1: z, 2: z.copy()}, {1: z > 1, 2: z > 1})
    with pytest.raises(ValueError, match="same seeds"):
        flagged_group_curves({1: z, 2: -z}, {1: z > 1})


def test_small_and_senseless_groups() -> None:
    statistic = np.array([0.0, 1.0, 2.0, 3.0, np.nan])
    one = group_curve(statistic, np.array([False, False, False, True, True]))
    assert (one.members, one.rest) == (1, 3)
    assert one.mu == pytest.approx(2.0)
    assert np.isnan(one.low)
    assert np.isnan(one.spread_ratio)
    assert np.isfinite(one.mu_fit)
    with pytest.raises(ValueError, match="no row of the group"):
        group_curve(statistic, np.array([False] * 4 + [True]))
    with pytest.raises(ValueError, match="no spread"):
        group_curve(statistic, np.ones(5, dtype=bool))
    with pytest.raises(ValueError, match="one flag a row"):
        group_curve(statistic, np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="between 0 and 1"):
        group_curve(statistic, np.array([True, False, False, False, False]), confidence=95)
