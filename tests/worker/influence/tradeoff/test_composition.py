"""Tensor products, their Gaussian limit and how Gaussian a run is: closed forms, convergence, simulated tests."""

import time

import numpy as np
import pytest

from worker.influence.observations import Observations, Steps
from worker.influence.tradeoff import (
    CentralLimit,
    ComposedTradeOff,
    GaussianTradeOff,
    PiecewiseLinear,
    SubsampledGaussian,
    TradeOff,
    central_limit,
    compose,
    gaussian_curve,
    gaussianity,
    step_influence,
)

ALPHA = np.linspace(0.0, 1.0, 501)

SYMMETRIC = PiecewiseLinear([0.3, 0.5], [0.5, 0.3])
"""Its knots lie as a mirror image of each other."""


def test_gaussians_compose_by_the_root_of_the_sum_of_squares() -> None:
    assert compose([GaussianTradeOff(3.0), GaussianTradeOff(4.0)]) == GaussianTradeOff(5.0)
    composed = compose([GaussianTradeOff(0.1), GaussianTradeOff(0.2)], [100, 50])
    assert isinstance(composed, GaussianTradeOff)
    assert composed.mu == pytest.approx(np.sqrt(3.0))


@pytest.mark.parametrize(("mu", "steps"), [(3.0, 1), (1.0, 2), (0.1, 100), (0.02, 4000), (0.001, 10)])
def test_loss_distributions_reach_the_closed_form_from_below(mu: float, steps: int) -> None:
    """p = 1 is a Gaussian that takes the numerical way."""
    composed = compose([SubsampledGaussian(mu, 1.0)], [steps])
    assert isinstance(composed, ComposedTradeOff)
    true = GaussianTradeOff(mu * np.sqrt(steps))
    error = true(ALPHA) - composed(ALPHA)
    assert error.min() > -1e-9
    assert error.max() < 1e-5
    assert composed.kl() == pytest.approx(true.kl())
    np.testing.assert_allclose(composed.inverse()(ALPHA), composed(ALPHA), atol=1e-6)
    np.testing.assert_allclose(composed.hockey_stick(ALPHA), true.hockey_stick(ALPHA), atol=1e-5)


def test_discrete_laws_compose_as_their_product() -> None:
    """Every outcome of two experiments by hand."""
    p1, q1 = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1])
    p2, q2 = np.array([0.1, 0.9]), np.array([0.5, 0.5])
    f = PiecewiseLinear(np.cumsum(p1), 1 - np.cumsum(q1))
    g = PiecewiseLinear(np.cumsum(p2), 1 - np.cumsum(q2))
    p, q = np.outer(p1, p2).ravel(), np.outer(q1, q2).ravel()
    order = np.argsort(p / q)
    true = PiecewiseLinear(np.cumsum(p[order]).clip(0, 1), (1 - np.cumsum(q[order])).clip(0, 1))
    composed = compose([f, g])
    np.testing.assert_allclose(composed(ALPHA), true(ALPHA), atol=1e-4)
    np.testing.assert_allclose(composed.inverse()(ALPHA), true.inverse()(ALPHA), atol=1e-4)
    assert composed.kl() == pytest.approx(true.kl())
    assert composed.loss_variance() == pytest.approx(true.loss_variance())
    assert composed.kappabar3() == pytest.approx(true.kappabar3(), rel=1e-3)


def test_what_one_law_never_shows_composes_too() -> None:
    """Each experiment shows with probability 1/2 under Q what P never shows: 3 of them leave 1/8."""
    f = PiecewiseLinear([0.0], [0.5])
    assert float(compose([f], [3])(0.0)) == pytest.approx(1 / 8, abs=1e-6)
    assert float(compose([f.inverse()], [3]).inverse()(0.0)) == pytest.approx(1 / 8, abs=1e-6)


def test_composition_does_not_depend_on_order_or_bracketing() -> None:
    f, g, h = SubsampledGaussian(1.0, 0.1), SubsampledGaussian(2.0, 0.05, swapped=True), GaussianTradeOff(0.3)
    left, right = compose([compose([f, g]), h]), compose([f, compose([h, g])])
    np.testing.assert_allclose(left(ALPHA), right(ALPHA), atol=1e-6)
    np.testing.assert_allclose(compose([f, f, f])(ALPHA), compose([f], [3])(ALPHA), atol=1e-12)
    turned = compose([f.inverse(), g.inverse(), h])
    np.testing.assert_allclose(left.inverse()(ALPHA), turned(ALPHA), atol=1e-5)


def test_no_simulated_test_beats_the_composition_and_the_likelihood_ratio_reaches_it() -> None:
    generator = np.random.default_rng(0)
    mu, p, steps, n = 1.2, 0.2, 12, 100_000
    f = compose([SubsampledGaussian(mu, p)], [steps])
    null = generator.normal(size=(n, steps))
    alternative = generator.normal(size=(n, steps)) + mu * (generator.random((n, steps)) < p)

    def log_ratio(x: np.ndarray) -> np.ndarray:
        return np.log1p(p * np.expm1(mu * x - mu**2 / 2)).sum(1)

    for statistic, best in ((log_ratio, True), (lambda x: x.sum(1), False)):
        under, over = statistic(null), statistic(alternative)
        for tau in np.quantile(under, [0.5, 0.8, 0.95, 0.99]):
            alpha, beta = np.mean(under >= tau), np.mean(over < tau)
            assert beta >= float(f(alpha)) - 0.01
            assert (beta <= float(f(alpha)) + 0.01) or not best


def test_limit_of_gaussians_is_exact_and_its_gamma_falls_as_one_over_root_steps() -> None:
    limits = [central_limit([GaussianTradeOff(1 / np.sqrt(steps))], [steps]) for steps in (100, 10_000)]
    assert [limit.mu for limit in limits] == pytest.approx([1.0, 1.0])
    # 0.56 T kappabar3 / (T mu^2)^1.5 with kappabar3 = sqrt(8 / pi) mu^3.
    assert [limit.gamma for limit in limits] == pytest.approx(
        [0.56 * np.sqrt(8 / np.pi) / r for r in (10, 100)], abs=1e-6
    )


def test_limit_of_symmetric_functions_is_the_theorem() -> None:
    limit = central_limit([SYMMETRIC], [500])
    variance = SYMMETRIC.loss_variance()
    assert limit.mu == pytest.approx(2 * 500 * SYMMETRIC.kl() / np.sqrt(500 * variance), rel=1e-3)
    assert limit.gamma == pytest.approx(0.56 * 500 * SYMMETRIC.kappabar3() / (500 * variance) ** 1.5, rel=0.02)


def test_exact_composition_tends_to_the_limit_of_subsampled_steps() -> None:
    """p sqrt(T) fixed and T growing: mu -> p sqrt(T (e^(mu^2) - 1)) (Bu et al. 2020), curve, gap and gamma with it."""
    mu, target = 1.0, 0.4 * np.sqrt(np.expm1(1.0))
    distances, gaps, gammas = [], [], []
    for steps in (16, 256, 4096):
        f = SubsampledGaussian(mu, 0.4 / np.sqrt(steps))
        limit, exact = central_limit([f], [steps]), compose([f], [steps])
        distances.append(abs(limit.mu - target))
        gaps.append(np.abs(exact(ALPHA) - limit.gaussian()(ALPHA)).max())
        gammas.append(limit.gamma)
    for falling in (distances, gaps, gammas):
        assert falling[1] < 0.5 * falling[0]
        assert falling[2] < 0.5 * falling[1]
    assert distances[-1] < 0.02 * target
    assert gaps[-1] < 0.005


@pytest.mark.parametrize(
    ("f", "steps"),
    [
        *(
            (SubsampledGaussian(mu, p, swapped), steps)
            for mu, p, steps in ((0.5, 0.05, 400), (1.0, 0.02, 2000), (0.3, 1.0, 50), (0.3, 0.5, 300))
            for swapped in (False, True)
        ),
        (SYMMETRIC, 50),
    ],
)
def test_the_exact_curve_lies_within_the_bounds_of_gamma(f: TradeOff, steps: int) -> None:
    """G_mu(alpha + gamma) - gamma <= f(alpha) <= G_mu(alpha - gamma) + gamma."""
    limit, exact = central_limit([f], [steps]), compose([f], [steps])
    mu, gamma = limit.mu, limit.gamma
    assert gamma < 0.5
    alpha = np.linspace(gamma, 1 - gamma, 201)
    assert (gaussian_curve(np.minimum(alpha + gamma, 1.0), mu) - gamma <= exact(alpha) + 1e-5).all()
    assert (exact(alpha) <= gaussian_curve(np.maximum(alpha - gamma, 0.0), mu) + gamma + 1e-5).all()


def test_gamma_is_large_where_the_limit_is_far_and_infinite_where_a_loss_is() -> None:
    assert central_limit([SubsampledGaussian(3.0, 0.001)], [50]).gamma > 0.5
    assert central_limit([PiecewiseLinear([0.0], [0.5])]).gamma == np.inf
    assert central_limit([GaussianTradeOff(0.0)]) == CentralLimit(0.0, 0.0)


def test_a_run_of_many_small_steps_is_gaussian_and_one_of_rare_blows_is_not() -> None:
    small = gaussianity(np.full(3000, 0.3), 0.05)
    assert small.limit.gamma < 0.5
    assert small.gap < 0.01
    rare = gaussianity(np.full(60, 4.0), 0.01)
    assert rare.limit.gamma > 0.5
    assert rare.gap > 0.2
    assert np.abs(rare.exact(ALPHA) - rare.exact.inverse()(ALPHA)).max() > 0.1
    # Trained with the sample is the null: whoever calls every run with a drawn blow "with" errs in .99^60 of them.
    assert float(rare.exact(0.99**60 + 0.03)) < 0.1


def test_a_run_that_moved_nothing_is_chance() -> None:
    nothing = gaussianity(np.zeros(40), 0.1)
    np.testing.assert_allclose(nothing.exact(ALPHA), 1 - ALPHA, atol=1e-12)
    assert (nothing.limit.mu, nothing.gap) == (0.0, 0.0)


def test_thousands_of_unlike_steps_are_pooled_at_little_cost() -> None:
    generator = np.random.default_rng(1)
    mus = generator.gamma(2.0, 0.3, 40)
    one_by_one = compose([SubsampledGaussian(mu, 0.05, swapped=True) for mu in mus])
    pooled = gaussianity(mus, 0.05)
    np.testing.assert_allclose(pooled.exact(ALPHA), one_by_one(ALPHA), atol=5e-4)
    started = time.process_time()
    gaussianity(generator.gamma(2.0, 0.3, 20_000), 0.01)
    assert time.process_time() - started < 30


def test_steps_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="finite mu"):
        gaussianity([0.1, np.nan], 0.1)
    with pytest.raises(ValueError, match="at least one step"):
        gaussianity([], 0.1)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        gaussianity([0.1], 1.2)
    with pytest.raises(ValueError, match="one count"):
        compose([GaussianTradeOff(1.0)], [1, 2])
    with pytest.raises(ValueError, match="at least once"):
        compose([GaussianTradeOff(1.0)], [0])


def test_step_influence_is_the_signal_in_spreads_of_the_batch_mean_of_the_nearest_draw() -> None:
    """Six steps, two refreshes, row 0 drawn at steps 1 and 4; the first step has no signal yet, the last no rate."""
    row = np.array([1, 2, 0, 3, 1, 3, 2, 1, 0, 3, 2, 1])
    step = np.repeat(np.arange(6), 2)
    signal = np.array([np.nan, np.nan, 5.0, 1.0, 2.0, 0.0, 10.0, 30.0, -40.0, 20.0, 7.0, 7.0])
    rate = np.array([1.0, 1, 1, 1, 1, 0])
    steps = Steps(rate, np.ones(6), np.full(6, 2), np.array([0, 0, 0, 1, 1, 1]))
    observations = Observations(row, step, signal[:, None], np.zeros((12, 1)))
    first, second = signal[2:6], signal[6:10]
    early = abs(5 - first.mean()) / first.std(ddof=1) / np.sqrt(2)
    late = abs(-40 - second.mean()) / second.std(ddof=1) / np.sqrt(2)
    expected = [early, early, early, late, late, 0.0]
    np.testing.assert_allclose(step_influence(observations, steps, 0), expected)
    np.testing.assert_allclose(step_influence(observations, steps, 9), np.zeros(6))
    same = Observations(row, step, np.ones((12, 1)), np.zeros((12, 1)))
    with pytest.raises(ValueError, match="same effect on the probe"):
        step_influence(same, steps, 0)


def test_step_influence_of_every_draw_composes_to_mu_with_inclusion_known() -> None:
    """At its own draws mu_t^2 is (s / sigma)^2 / B, the terms of the composed effect."""
    generator = np.random.default_rng(2)
    order = np.concatenate([generator.permutation(40) for _ in range(3)])
    step = np.arange(120) // 8
    steps = Steps(np.ones(15), np.ones(15), np.full(15, 8), np.zeros(15, dtype=np.int64))
    signal = generator.normal(size=120)
    found = step_influence(Observations(order, step, signal[:, None], signal[:, None]), steps, 7)
    drawn = order == 7
    standardised = (signal - signal.mean()) / signal.std(ddof=1)
    np.testing.assert_allclose(found[step[drawn]], np.abs(standardised[drawn]) / np.sqrt(8))
