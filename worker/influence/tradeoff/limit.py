"""The central limit theorem of trade-off functions, with a bound on its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from worker.influence.tradeoff.composition import flatten
from worker.influence.tradeoff.gaussian import GaussianTradeOff, gaussian_curve
from worker.influence.tradeoff.piecewise import curve_levels
from worker.influence.tradeoff.protocol import TradeOff

BERRY_ESSEEN = 0.56
"""Constant of the Berry-Esseen theorem for terms of different laws."""


@dataclass(frozen=True)
class CentralLimit:
    """The Gaussian G_mu that approximates a product f, with an error bound gamma.

    G_mu(alpha + gamma) - gamma <= f(alpha) <= G_mu(alpha - gamma) + gamma. A gamma of 0.5 or more bounds nothing.
    """

    mu: float
    gamma: float

    def gaussian(self) -> GaussianTradeOff:
        """Return the limit as a trade-off function."""
        return GaussianTradeOff(self.mu)


def central_limit(functions: Sequence[TradeOff], counts: Sequence[int] | None = None) -> CentralLimit:
    """Return the Gaussian limit of f_1 x ... x f_n, each taken counts[i] times, and its Berry-Esseen bound.

    For symmetric f (Dong, Roth and Su 2019, theorem 3.4), with sums over all functions:

        mu    = 2 sum kl / sqrt(sum kappa2 - kl^2)
        gamma = 0.56 sum kappabar3 / (sum kappa2 - kl^2)^1.5

    Otherwise the loss has its own mean, spread and gamma under either law: mu is the distance of the means in root mean
    square spreads, and gamma the larger of the two plus the distance of G_mu from the curve of two normal laws of
    unequal spread. With symmetric f both are the theorem's. gamma is infinite where a loss can be.

    Args:
        functions: The functions, at least one.
        counts: How often each is taken, at least once; None for once each.

    Raises:
        ValueError: The counts do not fit the functions, or one is below 1.
    """
    parts = flatten(functions, counts)
    under_p = _sums(parts)
    under_q = _sums([(f.inverse(), count) for f, count in parts])
    shift = under_p[0] + under_q[0]
    if not np.all(np.isfinite([*under_p, *under_q])):
        return CentralLimit(float("inf") if np.isinf(shift) else float(shift), float("inf"))
    variance = (under_p[1] + under_q[1]) / 2
    if variance == 0:
        return CentralLimit(0.0, 0.0)
    mu = float(shift / np.sqrt(variance))
    gamma = max(BERRY_ESSEEN * third / spread**1.5 for _, spread, third in (under_p, under_q))
    alpha = curve_levels()
    unequal = ndtr((-ndtri(alpha) * np.sqrt(under_p[1]) - shift) / np.sqrt(under_q[1]))
    return CentralLimit(mu, float(gamma + np.abs(unequal - gaussian_curve(alpha, mu)).max()))


def _sums(parts: Sequence[tuple[TradeOff, int]]) -> tuple[float, float, float]:
    """Return the parts' KL divergences, variances and third absolute central moments, each summed."""
    return (
        sum(count * f.kl() for f, count in parts),
        sum(count * f.loss_variance() for f, count in parts),
        sum(count * f.kappabar3() for f, count in parts),
    )
