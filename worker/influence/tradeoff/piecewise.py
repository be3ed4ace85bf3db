"""Trade-off functions given by points: straight between knots, as for discrete laws and samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from worker.influence.tradeoff.protocol import Floats, TradeOff

LEVELS = 2001
"""Number of levels between the ends, from 8 standard deviations below the median to 8 above it."""

SMALLEST_RATE = 1e-300
"""Below this a rate times another underflows, and a knot there could not be distinguished from one at 0."""


def curve_levels() -> Floats:
    """Return the levels in [0, 1] at which curves are compared or drawn, even in normal quantiles."""
    return np.concatenate([[0.0], ndtr(np.linspace(-8.0, 8.0, LEVELS)), [1.0]])


class PiecewiseLinear(TradeOff):
    """The largest trade-off function below the given points: their lower convex hull with (0, 1) and (1, 0).

    `alpha` and `beta` hold the knots, alpha increasing. A first knot below 1 is mass of Q that P never shows; a last
    stretch along 0 is mass of P that Q never shows, and the KL divergence is then infinite.
    """

    def __init__(self, alpha: ArrayLike, beta: ArrayLike) -> None:
        """Build the hull of the given points; rates below `SMALLEST_RATE` count as 0.

        Args:
            alpha: [n], type I errors, in [0, 1].
            beta: [n], the type II errors at them, in [0, 1].

        Raises:
            ValueError: The two are not vectors of one length, or a rate lies outside [0, 1].
        """
        alpha, beta = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
        if alpha.ndim != 1 or alpha.shape != beta.shape:
            raise ValueError(f"alpha and beta are vectors of one length, got {alpha.shape} and {beta.shape}")
        inside = (alpha >= 0) & (alpha <= 1) & (beta >= 0) & (beta <= 1)
        if not inside.all():
            raise ValueError("error rates lie in [0, 1]")
        alpha, beta = (np.where(rates < SMALLEST_RATE, 0.0, rates) for rates in (alpha, beta))
        self.alpha, self.beta = _lower_hull(np.append(alpha, [0.0, 1.0]), np.append(beta, [1.0, 0.0]))

    def __call__(self, alpha: ArrayLike) -> Floats:
        """Return the type II error at type I error alpha, interpolated between the knots, in the shape of alpha."""
        return np.asarray(np.interp(np.asarray(alpha, dtype=np.float64), self.alpha, self.beta))

    def inverse(self) -> PiecewiseLinear:
        """Return the function with both axes exchanged."""
        return PiecewiseLinear(self.beta, self.alpha)

    def hockey_stick(self, epsilon: ArrayLike) -> Floats:
        """Return max over knots of 1 - alpha - e^epsilon beta."""
        epsilon = np.asarray(epsilon, dtype=np.float64)
        # The best knot is where the slope passes -e^-epsilon.
        with np.errstate(divide="ignore", over="ignore"):
            steepness = -np.log(np.maximum(-np.diff(self.beta) / np.diff(self.alpha), 0.0))
        best = np.searchsorted(steepness, epsilon, side="right")
        return np.asarray(np.maximum(1 - self.alpha[best] - np.exp(epsilon) * self.beta[best], 0.0))

    def kl(self) -> float:
        """Return the KL divergence of the discrete laws; infinite if P has mass that Q never shows."""
        p, loss = self._losses()
        return float(np.sum(p * loss))

    def loss_variance(self) -> float:
        """Return the variance of the loss under P; infinite where the KL divergence is."""
        p, loss = self._losses()
        mean = np.sum(p * loss)
        return float(np.sum(p * (loss - mean) ** 2)) if np.isfinite(mean) else float("inf")

    def kappabar3(self) -> float:
        """Return the third absolute central moment of the loss under P; infinite where the KL divergence is."""
        p, loss = self._losses()
        mean = np.sum(p * loss)
        return float(np.sum(p * np.abs(loss - mean) ** 3)) if np.isfinite(mean) else float("inf")

    def masses(self) -> tuple[Floats, Floats]:
        """Return the discrete laws P and Q with this trade-off function, by falling ratio Q / P; [knots] each."""
        return np.diff(self.alpha, prepend=0.0), -np.diff(self.beta, prepend=1.0)

    def _losses(self) -> tuple[Floats, Floats]:
        """Return P's mass and log P / Q of each outcome that P shows."""
        p, q = self.masses()
        p, q = p[p > 0], q[p > 0]
        with np.errstate(divide="ignore"):
            return p, np.log(p) - np.log(q)


def threshold_errors(null: ArrayLike, alternative: ArrayLike) -> tuple[Floats, Floats]:
    """Return the error rates of every threshold tau among the values, [distinct values + 1] each.

    alpha_tau is the share of null >= tau, beta_tau the share of alternative < tau, from alpha 0 to alpha 1. This is the
    raw curve of the two samples, which need not be convex. With few values it overstates how far the laws lie apart.

    Args:
        null: [values], the statistic under the null hypothesis, at least one value.
        alternative: [values], the statistic under the alternative, at least one; large ones favour the alternative.

    Raises:
        ValueError: There is no value under one of the laws, or one is not finite.
    """
    null, alternative = np.sort(np.asarray(null, float)), np.sort(np.asarray(alternative, float))
    if not len(null) or not len(alternative):
        raise ValueError("a trade-off curve needs at least one value under each law")
    if not (np.isfinite(null).all() and np.isfinite(alternative).all()):
        raise ValueError("the statistic must be finite; drop the rows that were never observed")
    tau = np.unique(np.concatenate([null, alternative]))[::-1]
    alpha = 1 - np.searchsorted(null, tau, side="left") / len(null)
    beta = np.searchsorted(alternative, tau, side="left") / len(alternative)
    return np.append(0.0, alpha), np.append(1.0, beta)


def _lower_hull(alpha: Floats, beta: Floats) -> tuple[Floats, Floats]:
    """Return the knots of the lower convex hull, alpha strictly increasing (Andrew's monotone chain)."""
    order = np.lexsort((beta, alpha))
    alpha, beta = alpha[order], beta[order]
    lowest = np.append(True, np.diff(alpha) > 0)
    alpha, beta = alpha[lowest], np.minimum.accumulate(beta[lowest])
    keep: list[int] = []
    x, y = alpha.tolist(), beta.tolist()
    for i in range(len(x)):
        while len(keep) > 1:
            a, b = keep[-2], keep[-1]
            if (y[b] - y[a]) * (x[i] - x[b]) < (y[i] - y[b]) * (x[b] - x[a]):
                break
            keep.pop()
        keep.append(i)
    return alpha[keep], beta[keep]
