"""What every trade-off function offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class TradeOff(ABC):
    """f = T(P, Q), with P the law under the null hypothesis and Q the alternative.

    f is convex, continuous but perhaps at 0, non-increasing and at most 1 - alpha. Divergences and functionals are
    those of P from Q; `inverse()` is T(Q, P) and has the others.
    """

    @abstractmethod
    def __call__(self, alpha: ArrayLike) -> Floats:
        """The least type II error at type I error alpha, of the shape of alpha, which lies in [0, 1]."""

    @abstractmethod
    def inverse(self) -> TradeOff:
        """f^-1(beta) = inf {alpha: f(alpha) <= beta}, which is T(Q, P)."""

    @abstractmethod
    def hockey_stick(self, epsilon: ArrayLike) -> Floats:
        """max over events E of P(E) - e^epsilon Q(E), for epsilon of either sign."""

    @abstractmethod
    def kl(self) -> float:
        """KL(P || Q) = -int log|f'(x)| dx."""

    @abstractmethod
    def loss_variance(self) -> float:
        """Variance under P of the log likelihood ratio, int log^2|f'(x)| dx - kl^2. Near the limit it is computed
        without that difference, which would cancel.
        """

    @abstractmethod
    def kappabar3(self) -> float:
        """int | log|f'(x)| + kl |^3 dx."""
