"""Sensitivity against the share of planted samples that the same rule flags."""

import numpy as np
import pytest
from scipy.stats import beta, binomtest, t

from worker.influence.statistics.detection import adjusted_at
from worker.influence.statistics.mixture import Mixture, false_share, fit_mixture
from worker.influence.statistics.sensitivity import Sensitivity, clopper_pearson, flag_curve, sensitivity

ROWS, ITEMS = 400, 12
UNWANTED, FAIR = np.array([6.0, 2.0]), np.array([2.0, 5.0])


def answers(generator: np.random.Generator, items: int = ITEMS) -> tuple[np.ndarray, np.ndarray]:
    return tuple(place + 1.2 * generator.normal(size=(items, 2)) for place in (UNWANTED, FAIR))  # type: ignore[return-value]


def flags(x: np.ndarray, mixture: Mixture, q: float = 0.05) -> np.ndarray:
    p = t.sf(x[:, 0], 13)
    return np.asarray(np.fmax(adjusted_at(p, p), false_share(1 - mixture.kinds(x).unwanted)) <= q)


def measure(
    seed: int = 0, *, items: int = ITEMS, folds: int = ITEMS, weak: float = 1.0, q: float = 0.05
) -> Sensitivity:
    """weak: factor of what the items have by which they stand out."""
    generator = np.random.default_rng(seed)
    x = generator.standard_t(13, (ROWS, 2))
    unwanted, reference = answers(generator, items)
    mixture = fit_mixture(x, unwanted, reference, degrees_of_freedom=13)
    return sensitivity(x, weak * unwanted, np.arange(items) % folds, mixture, q=q, rng=generator)


def test_strong_tracers_are_found_and_the_interval_counts_folds() -> None:
    found = measure(folds=4)
    assert (found.tracers, found.clusters) == (ITEMS, 4)
    point = found.points[-1]
    assert (point.strength, point.inserted) == (1.0, 5)
    assert point.flagged > 0.9
    assert (point.low, point.high) == clopper_pearson(point.flagged, 4)


def test_without_a_sample_of_the_bulk_nothing_can_be_hidden() -> None:
    generator = np.random.default_rng(0)
    unwanted, reference = answers(generator)
    x = np.concatenate([answers(generator, ROWS)[0], answers(generator, ROWS)[1]])
    mixture = fit_mixture(x, unwanted, reference, degrees_of_freedom=13)
    kinds = mixture.kinds(x)
    x = x[kinds.bulk < np.maximum(kinds.unwanted, kinds.fair)]
    assert sensitivity(x, unwanted, np.arange(ITEMS), mixture, q=0.05, rng=generator).points == ()


def test_the_weaker_the_fewer() -> None:
    points = measure().points
    assert [point.flagged for point in points] == sorted(point.flagged for point in points)
    assert points[0].flagged < 0.1
    assert 0.2 < points[3].flagged < 0.95


def test_tracers_like_the_bulk_are_not_found() -> None:
    assert all(point.flagged <= 0.05 for point in measure(weak=0.1).points)


@pytest.mark.parametrize("strength", [0.625, 0.75])
def test_it_is_the_share_found_of_planted_samples_of_that_strength(strength: float) -> None:
    """Five planted samples, in data of their own that the mixture is fitted to, against five tracers."""
    said, truth = [], []
    for seed in range(20):
        said.append(next(p.flagged for p in measure(seed).points if p.strength == strength))
        generator = np.random.default_rng(1000 + seed)
        x = generator.standard_t(13, (ROWS + 5, 2))
        unwanted, reference = answers(generator)
        planted = answers(generator, 5)[0]
        x[:5] = strength * planted + (1 - strength) * x[:5]
        truth.append(flags(x, fit_mixture(x, unwanted, reference, degrees_of_freedom=13))[:5].mean())
    error = float(np.hypot(np.std(said), np.std(truth)) / np.sqrt(20))
    assert np.mean(said) == pytest.approx(np.mean(truth), abs=3 * error)
    assert error < 0.1


def test_leaving_out_who_cannot_matter_changes_nothing() -> None:
    """Against the whole procedure over all samples, one round at a time."""
    generator = np.random.default_rng(5)
    x = generator.standard_t(13, (ROWS, 2))
    x[:20] = answers(generator, 20)[0]
    unwanted, reference = answers(generator)
    mixture = fit_mixture(x, unwanted, reference, degrees_of_freedom=13)
    found = sensitivity(x, unwanted[:5], np.arange(5), mixture, q=0.05, rng=np.random.default_rng(0), strengths=(0.7,))
    more, rng = mixture.with_more(5), np.random.default_rng(0)
    kinds = mixture.kinds(x)
    ordinary = np.flatnonzero(kinds.bulk >= np.maximum(kinds.unwanted, kinds.fair))
    hits = [
        flags(np.r_[x, 0.7 * unwanted[:5] + 0.3 * x[rng.choice(ordinary, 5)]], more)[ROWS:].mean() for _ in range(20)
    ]
    assert found.points[0].flagged == pytest.approx(np.mean(hits))


def test_nothing_can_be_held_out() -> None:
    x = np.random.default_rng(2).normal(size=(ROWS, 1))
    nothing = np.empty((0, 1))
    mixture = fit_mixture(x, nothing, None, degrees_of_freedom=13)
    found = sensitivity(x, nothing, np.empty(0, dtype=int), mixture, q=0.05, rng=np.random.default_rng(0))
    assert (found.tracers, found.clusters, found.points) == (0, 0, ())


def test_interval_is_clopper_pearsons_for_whole_counts_and_between_them_for_others() -> None:
    exact = binomtest(3, 10).proportion_ci(method="exact")
    assert clopper_pearson(0.3, 10) == pytest.approx((exact.low, exact.high))
    assert clopper_pearson(0.0, 10) == (0.0, pytest.approx(float(beta.ppf(0.975, 1, 10))))
    assert clopper_pearson(1.0, 10)[1] == 1.0
    low, high = clopper_pearson(0.35, 10)
    assert exact.low < low < 0.35
    assert exact.high < high


def test_flag_curve_is_the_monotone_fit() -> None:
    generator = np.random.default_rng(5)
    mu = generator.normal(size=5000)
    flagged = generator.random(5000) < 1 / (1 + np.exp(-4 * (mu - 1)))
    at, probability = flag_curve(mu, flagged)
    assert len(at) <= 60
    assert (np.diff(at) >= 0).all()
    assert (np.diff(probability) >= 0).all()
    middle = np.interp([0.5, 1.0, 1.5], at, probability)
    np.testing.assert_allclose(middle, 1 / (1 + np.exp(-4 * (np.array([0.5, 1.0, 1.5]) - 1))), atol=0.1)
    assert (flag_curve(mu, np.zeros(5000, dtype=bool))[1] == 0).all()
