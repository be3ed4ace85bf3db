"""The exact interval of a proportion (Clopper and Pearson, 1934), without a statistics library."""

import math

_STEPS = 300
"""Most steps of the bisection, which ends sooner unless the quantile is very close to 0."""
_TINY = 1e-300
"""Replaces zeros in Lentz's method, as in its modified form."""


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) of a proportion of which `successes` in `trials` were observed.

    It covers the truth at least as often as `confidence`, whatever the truth is. Without trials it is (0, 1).

    Args:
        successes: Number of successes, from 0 to `trials`.
        trials: Number of trials.
        confidence: Level of the interval, in (0, 1).

    Raises:
        ValueError: The counts or the confidence are impossible.
    """
    if not 0 <= successes <= trials or not 0 < confidence < 1:
        raise ValueError("successes lie in 0 to trials, and the confidence between 0 and 1")
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _beta_quantile(tail, successes, trials - successes + 1)
    high = 1.0 if successes == trials else 1 - _beta_quantile(tail, trials - successes, successes + 1)
    return low, high


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22).

    Args:
        x: Where to evaluate it; below 0 it is 0, above 1 it is 1.
        a: First parameter, above 0.
        b: Second parameter, above 0.
    """
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    # The fraction converges fast on this side of the mean, and the other side is its complement.
    if x > (a + 1) / (a + b + 2):
        return 1 - math.exp(log_front) * _fraction(1 - x, b, a) / b
    return math.exp(log_front) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """Evaluate the continued fraction of I_x(a, b) by Lentz's method."""
    d = 1 / _nonzero(1 - (a + b) * x / (a + 1))
    c, value = 1.0, d
    for m in range(1, 100_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _nonzero(1 + numerator * d)
            c = _nonzero(1 + numerator / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise ArithmeticError("the continued fraction of the beta function did not converge")


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """Return where the cumulative beta distribution reaches the probability, by bisection to neighbouring floats."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2
