"""Trade-off functions with formulas: the Gaussian and the subsampled Gaussian."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, ndtr, ndtri

from worker.influence.tradeoff.protocol import Floats, TradeOff

NODES = 4001
"""Nodes of the trapezoid rule over a normal variable; for smooth integrands it is exact to rounding."""

REACH = 12.0
"""Standard deviations from the centre that integrals cover; beyond lies less than 1e-32."""


def gaussian_curve(alpha: ArrayLike, mu: float) -> Floats:
    """Return G_mu(alpha) = Phi(Phi^-1(1 - alpha) - mu), in the shape of alpha.

    Args:
        alpha: Type I errors, in [0, 1].
        mu: May have either sign; below zero the curve lies above 1 - alpha.
    """
    return np.asarray(ndtr(-ndtri(np.asarray(alpha, dtype=np.float64)) - mu))


@dataclass(frozen=True)
class GaussianTradeOff(TradeOff):
    """The Gaussian trade-off function G_mu = T(N(0, 1), N(mu, 1)), with mu >= 0."""

    mu: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mu) and self.mu >= 0):
            raise ValueError(f"a Gaussian trade-off function has mu >= 0, got {self.mu}; take |mu|, or gaussian_curve")

    def __call__(self, alpha: ArrayLike) -> Floats:
        """Return G_mu(alpha), in the shape of alpha."""
        return gaussian_curve(alpha, self.mu)

    def inverse(self) -> GaussianTradeOff:
        """Return the function itself, which is symmetric."""
        return self

    def hockey_stick(self, epsilon: ArrayLike) -> Floats:
        """Return Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2) (Balle and Wang 2018)."""
        epsilon = np.asarray(epsilon, dtype=np.float64)
        if self.mu == 0:
            return np.maximum(-np.expm1(epsilon), 0.0)
        at = -epsilon / self.mu
        delta = ndtr(at + self.mu / 2) - np.exp(epsilon + log_ndtr(at - self.mu / 2))
        return np.asarray(np.maximum(delta, 0.0))

    def kl(self) -> float:
        """Return mu^2 / 2."""
        return self.mu**2 / 2

    def loss_variance(self) -> float:
        """Return mu^2."""
        return self.mu**2

    def kappabar3(self) -> float:
        """Return 2 sqrt(2 / pi) mu^3: the loss is normal with standard deviation mu."""
        return float(2 * np.sqrt(2 / np.pi) * self.mu**3)


@dataclass(frozen=True)
class SubsampledGaussian(TradeOff):
    """The trade-off of a shift that happens with probability p: T(N(0, 1), (1 - p) N(0, 1) + p N(mu, 1)).

    It is (1 - p) Id + p G_mu, and not symmetric. With `swapped` the mixture is the null instead.
    """

    mu: float
    p: float
    swapped: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mu) and self.mu >= 0):
            raise ValueError(f"a subsampled Gaussian has mu >= 0, got {self.mu}; take |mu|")
        if not 0 <= self.p <= 1:
            raise ValueError(f"the probability of being drawn lies in [0, 1], got {self.p}")

    def __call__(self, alpha: ArrayLike) -> Floats:
        """Return the least type II error at type I error alpha, in the shape of alpha; by bisection if swapped."""
        alpha = np.asarray(alpha, dtype=np.float64)
        if not self.swapped:
            return (1 - self.p) * (1 - alpha) + self.p * gaussian_curve(alpha, self.mu)
        # The normal law above the threshold z at which the mixture below it has mass alpha.
        low, high = np.full_like(alpha, -40.0), np.full_like(alpha, 40.0)
        for _ in range(64):
            z = (low + high) / 2
            below = (1 - self.p) * ndtr(z) + self.p * ndtr(z - self.mu) < alpha
            low, high = np.where(below, z, low), np.where(below, high, z)
        return np.asarray(np.where(alpha >= 1, 0.0, ndtr(-low)))

    def inverse(self) -> SubsampledGaussian:
        """Return the function with null and alternative exchanged."""
        return replace(self, swapped=not self.swapped)

    def hockey_stick(self, epsilon: ArrayLike) -> Floats:
        """Return P(E) - e^epsilon Q(E) of the best event E, which ends where the likelihood ratio is e^(+-epsilon)."""
        epsilon = np.asarray(epsilon, dtype=np.float64)
        if self.mu == 0 or self.p == 0:
            return np.maximum(-np.expm1(epsilon), 0.0)
        # The likelihood ratio mixture / normal at z is 1 - p + p exp(mu z - mu^2 / 2), so the best event is z above
        # (mixture null) or below (normal null) the point where it equals e^(+-epsilon).
        excess = np.expm1(epsilon if self.swapped else -epsilon) + self.p
        with np.errstate(divide="ignore", invalid="ignore"):
            at = np.where(excess > 0, self.mu / 2 + np.log(np.maximum(excess, 0) / self.p) / self.mu, -np.inf)
        if self.swapped:
            delta = self.p * ndtr(self.mu - at) - excess * ndtr(-at)
        else:
            delta = np.exp(epsilon) * (excess * ndtr(at) - self.p * ndtr(at - self.mu))
        return np.asarray(np.clip(delta, 0.0, 1.0))

    def kl(self) -> float:
        """Return the KL divergence by quadrature over the normal law."""
        weight, log_ratio, tilted, excess = self._under_normal()
        return float(np.sum(tilted * log_ratio - excess) if self.swapped else np.sum(excess - weight * log_ratio))

    def loss_variance(self) -> float:
        """Return the variance of the loss by quadrature over the normal law."""
        weight, log_ratio = self._under_null()
        mean = np.sum(weight * log_ratio)
        return float(np.sum(weight * (log_ratio - mean) ** 2))

    def kappabar3(self) -> float:
        """Return the third absolute central moment of the loss by quadrature over the normal law."""
        weight, log_ratio = self._under_null()
        mean = np.sum(weight * log_ratio)
        return float(np.sum(weight * np.abs(log_ratio - mean) ** 3))

    def _under_null(self) -> tuple[Floats, Floats]:
        weight, log_ratio, tilted, _ = self._under_normal()
        return (tilted if self.swapped else weight), log_ratio

    def _under_normal(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the quadrature over z ~ N(0, 1): weight, log r, weight * r and weight * (r - 1), [nodes] each.

        r is the likelihood ratio mixture / normal.
        """
        z = np.linspace(-REACH, REACH + self.mu, NODES)
        log_weight = -(z**2) / 2 - np.log(2 * np.pi) / 2 + np.log(z[1] - z[0])
        exponent = self.mu * z - self.mu**2 / 2
        small = self.p * np.abs(np.expm1(np.minimum(exponent, 100.0))) < 0.5
        minus_one = self.p * np.expm1(np.where(small, exponent, 0.0))
        with np.errstate(divide="ignore"):
            log_ratio = np.where(small, np.log1p(minus_one), np.logaddexp(np.log1p(-self.p), np.log(self.p) + exponent))
        weight, tilted = np.exp(log_weight), np.exp(log_ratio + log_weight)
        return weight, log_ratio, tilted, np.where(small, weight * minus_one, tilted - weight)
