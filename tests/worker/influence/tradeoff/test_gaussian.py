"""Trade-off functions against closed forms, numerical integration, simulated tests and their own laws."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from worker.influence.tradeoff import (
    GaussianTradeOff,
    PiecewiseLinear,
    SubsampledGaussian,
    TradeOff,
    gaussian_curve,
)
from worker.influence.tradeoff.piecewise import threshold_errors

ALPHA = np.linspace(0.0, 1.0, 501)


def trade_offs() -> st.SearchStrategy[TradeOff]:
    mu, p, rate = st.floats(0.01, 6.0), st.floats(0.001, 1.0), st.floats(0.0, 1.0)
    subsampled = st.builds(SubsampledGaussian, mu, p, st.booleans())
    points = st.lists(st.tuples(rate, rate), max_size=12)
    given_points = points.map(lambda pairs: PiecewiseLinear([a for a, _ in pairs], [b for _, b in pairs]))
    return st.one_of(st.builds(GaussianTradeOff, mu), subsampled, given_points)


@settings(deadline=None, max_examples=40)
@given(trade_offs())
def test_a_trade_off_function_is_convex_falling_and_below_the_line_of_chance(f: TradeOff) -> None:
    beta = f(ALPHA)
    assert (beta >= 0).all()
    assert (beta <= 1 - ALPHA + 1e-12).all()
    assert (np.diff(beta) <= 1e-12).all()
    assert (beta[1:-1] <= (beta[:-2] + beta[2:]) / 2 + 1e-12).all()


@settings(deadline=None, max_examples=40)
@given(trade_offs())
@example(PiecewiseLinear([5e-324], [0.0]))  # a knot that no product can be told from 0
@example(PiecewiseLinear([1e-299], [0.0]))
def test_the_inverse_undoes_the_function_and_itself(f: TradeOff) -> None:
    inverse = f.inverse()
    np.testing.assert_allclose(inverse.inverse()(ALPHA), f(ALPHA), atol=1e-9)
    # inf {alpha: f(alpha) <= beta}: f there is beta, or less where f jumps down at 0.
    assert (f(inverse(ALPHA)) <= ALPHA + 1e-9).all()
    slightly_less = np.maximum(inverse(ALPHA) - 1e-6, 0.0)
    assert (f(slightly_less)[inverse(ALPHA) > 1e-6] >= ALPHA[inverse(ALPHA) > 1e-6] - 1e-9).all()


@settings(deadline=None, max_examples=40)
@given(trade_offs(), st.floats(-3.0, 3.0))
def test_hockey_stick_is_the_largest_excess_of_any_threshold_test(f: TradeOff, epsilon: float) -> None:
    levels = np.append(norm.cdf(np.linspace(-10, 8, 2001)), [0.0, 1.0])
    alpha = np.concatenate([levels, f.inverse()(levels), f.alpha if isinstance(f, PiecewiseLinear) else []])
    found = float(f.hockey_stick(epsilon))
    assert found == pytest.approx(np.max(1 - alpha - np.exp(epsilon) * f(alpha)), abs=5e-5)
    # The divergence of Q from P at -epsilon is that of P from Q, turned round.
    other = float(f.inverse().hockey_stick(-epsilon))
    assert found == pytest.approx(1 - np.exp(epsilon) + np.exp(epsilon) * other, abs=1e-7)


@pytest.mark.parametrize("mu", [0.0, 0.01, 0.5, 1.0, 4.0])
def test_gaussian_closed_forms(mu: float) -> None:
    f = GaussianTradeOff(mu)
    np.testing.assert_allclose(f(ALPHA), norm.cdf(norm.isf(ALPHA) - mu), atol=1e-14)
    assert f.kl() == pytest.approx(mu**2 / 2)
    assert f.loss_variance() == pytest.approx(mu**2)
    assert f.inverse() == f
    assert f(0.0) == 1
    assert f(1.0) == 0
    if mu:
        epsilon = np.array([-1.0, 0.0, 0.3, 2.0])
        delta = norm.cdf(-epsilon / mu + mu / 2) - np.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)
        np.testing.assert_allclose(f.hockey_stick(epsilon), delta, atol=1e-14)
        assert f.kappabar3() == pytest.approx(quad(lambda z: abs(mu * z) ** 3 * norm.pdf(z), -12, 12, points=[0])[0])


def test_a_far_gaussian_does_not_overflow() -> None:
    assert GaussianTradeOff(40.0).hockey_stick(np.array([0.0, 300.0, 900.0]))[0] == pytest.approx(1.0)
    assert np.isfinite(GaussianTradeOff(40.0).hockey_stick(np.array([0.0, 300.0, 900.0]))).all()


def test_gaussian_curve_takes_either_sign() -> None:
    np.testing.assert_allclose(gaussian_curve(ALPHA, -0.7), 1 - gaussian_curve(1 - ALPHA, 0.7), atol=1e-12)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("mu", "p"), [(0.3, 0.02), (1.0, 0.5), (3.0, 0.01), (2.0, 1.0)])
def test_subsampled_gaussian_against_integrals_of_the_two_densities(mu: float, p: float, swapped: bool) -> None:
    f = SubsampledGaussian(mu, p, swapped)

    def laws(z: float) -> tuple[float, float]:
        normal = norm.pdf(z)
        mixture = (1 - p) * normal + p * norm.pdf(z - mu)
        return (mixture, normal) if swapped else (normal, mixture)

    def integral(of: object) -> float:
        return quad(lambda z: of(*laws(z)), -10, 10 + 3 * mu, points=[0, mu], limit=400, epsabs=1e-14)[0]  # type: ignore[operator]

    kl = integral(lambda a, b: a * np.log(a / b))
    assert f.kl() == pytest.approx(kl, rel=1e-6)
    assert f.loss_variance() == pytest.approx(integral(lambda a, b: a * (np.log(a / b) - kl) ** 2), rel=1e-6)
    assert f.kappabar3() == pytest.approx(integral(lambda a, b: a * abs(np.log(a / b) - kl) ** 3), rel=1e-4)
    for epsilon in (-0.4, 0.0, 0.2):
        excess = integral(lambda a, b, e=epsilon: max(a - np.exp(e) * b, 0.0))
        assert float(f.hockey_stick(epsilon)) == pytest.approx(excess, abs=1e-6)


def test_subsampled_gaussian_at_the_ends_of_p() -> None:
    np.testing.assert_allclose(SubsampledGaussian(1.3, 1.0)(ALPHA), gaussian_curve(ALPHA, 1.3), atol=1e-12)
    np.testing.assert_allclose(SubsampledGaussian(1.3, 1.0, True)(ALPHA), gaussian_curve(ALPHA, 1.3), atol=1e-9)
    np.testing.assert_allclose(SubsampledGaussian(1.3, 0.0)(ALPHA), 1 - ALPHA, atol=1e-12)


def test_error_rates_of_simulated_tests_lie_on_the_curve() -> None:
    generator = np.random.default_rng(0)
    n, mu, p = 400_000, 1.5, 0.3
    null = generator.normal(size=n)
    alternative = generator.normal(size=n) + mu * (generator.random(n) < p)
    f = SubsampledGaussian(mu, p)
    for tau in (-1.0, 0.0, 1.0, 2.0):
        alpha, beta = np.mean(null >= tau), np.mean(alternative < tau)
        assert float(f(alpha)) == pytest.approx(beta, abs=5 * np.sqrt(0.5 / n))
        assert float(f.inverse()(beta)) == pytest.approx(alpha, abs=0.01)
    sampled = PiecewiseLinear(*threshold_errors(null[:20_000], alternative[:20_000]))
    np.testing.assert_allclose(sampled(ALPHA), f(ALPHA), atol=0.02)


def test_discrete_laws_are_exact() -> None:
    """P = (.5, .3, .2), Q = (.1, .3, .6): everything by hand."""
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1])
    f = PiecewiseLinear(np.cumsum(p), 1 - np.cumsum(q))
    np.testing.assert_allclose(f([0.2, 0.35, 0.5, 1.0]), [0.4, 0.25, 0.1, 0.0])
    assert f.kl() == pytest.approx(np.sum(p * np.log(p / q)))
    assert f.inverse().kl() == pytest.approx(np.sum(q * np.log(q / p)))
    assert f.loss_variance() == pytest.approx(np.sum(p * (np.log(p / q) - f.kl()) ** 2))
    assert f.kappabar3() == pytest.approx(np.sum(p * np.abs(np.log(p / q) - f.kl()) ** 3))
    assert float(f.hockey_stick(np.log(2))) == pytest.approx(np.maximum(p - 2 * q, 0).sum())


def test_laws_of_unlike_support() -> None:
    """A third of P is never seen under Q, a half of Q never under P."""
    f = PiecewiseLinear([0.0, 2 / 3], [0.5, 0.0])
    assert f(0.0) == 0.5
    assert f.kl() == np.inf
    assert f.inverse().kl() == np.inf
    assert float(f.hockey_stick(50.0)) == pytest.approx(1 / 3)
    assert float(f.inverse().hockey_stick(50.0)) == pytest.approx(0.5)
    np.testing.assert_allclose(f.inverse()([0.0, 0.25, 0.5]), [2 / 3, 1 / 3, 0.0])


def test_samples_are_turned_into_the_hull_of_their_threshold_tests() -> None:
    f = PiecewiseLinear(*threshold_errors([0.0, 1.0, 2.0, 3.0], [2.5, 3.5]))
    np.testing.assert_allclose(f.alpha, [0.0, 0.25, 1.0])
    np.testing.assert_allclose(f.beta, [0.5, 0.0, 0.0])
    ties = PiecewiseLinear(*threshold_errors([1.0, 1.0], [1.0]))
    np.testing.assert_allclose(ties(ALPHA), 1 - ALPHA)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"take \|mu\|"):
        GaussianTradeOff(-1.0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        SubsampledGaussian(1.0, 1.5)
    with pytest.raises(ValueError, match="error rates"):
        PiecewiseLinear([0.2], [1.2])
    with pytest.raises(ValueError, match="one length"):
        PiecewiseLinear([0.2, 0.3], [0.5])
    with pytest.raises(ValueError, match="at least one value"):
        threshold_errors([], [1.0])
    with pytest.raises(ValueError, match="never observed"):
        threshold_errors([1.0], [np.nan])
