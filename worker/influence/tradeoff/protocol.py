"""The interface of every trade-off function."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class TradeOff(ABC):
    """A trade-off function f = T(P, Q), with P the law under the null hypothesis and Q the alternative.

    f is convex, continuous except perhaps at 0, non-increasing and at most 1 - alpha. Divergences and functionals are
    those of P from Q; `inverse()` is T(Q, P) and has those of Q from P.
    """

    @abstractmethod
    def __call__(self, alpha: ArrayLike) -> Floats:
        """Return the least type II error at type I error alpha, which lies in [0, 1]; in the shape of alpha."""

    @abstractmethod
    def inverse(self) -> TradeOff:
        """Return f^-1(beta) = inf {alpha: f(alpha) <= beta}, which is T(Q, P)."""

    @abstractmethod
    def hockey_stick(self, epsilon: ArrayLike) -> Floats:
        """Return max over events E of P(E) - e^epsilon Q(E), for epsilon of either sign; in the shape of epsilon."""

    @abstractmethod
    def kl(self) -> float:
        """Return the KL divergence KL(P || Q) = -int log|f'(x)| dx."""

    @abstractmethod
    def loss_variance(self) -> float:
        """Return the variance under P of the log likelihood ratio, int log^2|f'(x)| dx - kl^2.

        Near the limit it is computed without that difference, which would cancel.
        """

    @abstractmethod
    def kappabar3(self) -> float:
        """Return the third absolute central moment of the log likelihood ratio, int | log|f'(x)| + kl |^3 dx."""
