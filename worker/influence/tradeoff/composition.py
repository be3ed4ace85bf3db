"""The tensor product of trade-off functions by privacy loss distributions: exact up to a grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dp_accounting.pld import pld_pmf

from worker.influence.tradeoff.gaussian import GaussianTradeOff
from worker.influence.tradeoff.piecewise import PiecewiseLinear
from worker.influence.tradeoff.protocol import Floats, TradeOff

GRID = 0.01
"""Grid interval in root mean square standard deviations of a step's loss: it widens the composed loss by 1e-5."""

ATOMS = 20
"""How many times finer the grid is where a law has atoms, which the grid spreads over its two nearest points."""

BUCKETS = 100_000
"""Most grid intervals across 16 standard deviations of the composed loss; beyond 3,900 steps the grid grows coarser
instead."""

TAIL = 1e-12
"""Probability mass that may be cut off the ends of one composition."""

CURVE_TAIL = 1e-10
"""Probability mass beyond the outermost supporting line."""

LARGEST_LOSS = 700.0
"""Larger losses count as infinite: e^loss would overflow."""

LINES = 4000
"""Number of supporting lines that the curve is made of, on either side of slope -1."""


class ComposedTradeOff(PiecewiseLinear):
    """The product f_1 x ... x f_T.

    The curve is a lower bound of the product, within about 1e-5 of it (1e-4 for few discrete laws). KL divergence and
    variance of the loss are sums over the parts, and so exact.
    """

    def __init__(self, alpha: Floats, beta: Floats, parts: Sequence[tuple[TradeOff, int]]) -> None:
        super().__init__(alpha, beta)
        self.parts = tuple(parts)

    def inverse(self) -> ComposedTradeOff:
        """Return the product of the parts' inverses, with both axes of the curve exchanged."""
        return ComposedTradeOff(self.beta, self.alpha, [(f.inverse(), count) for f, count in self.parts])

    def kl(self) -> float:
        """Return the sum of the parts' KL divergences."""
        return float(sum(count * f.kl() for f, count in self.parts))

    def loss_variance(self) -> float:
        """Return the sum of the parts' variances."""
        return float(sum(count * f.loss_variance() for f, count in self.parts))

    def kappabar3(self) -> float:
        """Return the third absolute central moment as the curve has it, without the tails that its grid cuts off."""
        p, q = self.masses()
        seen = (p > 0) & (q > 0)
        return float(np.sum(p[seen] * np.abs(np.log(p[seen] / q[seen]) - self.kl()) ** 3))


def compose(functions: Sequence[TradeOff], counts: Sequence[int] | None = None) -> TradeOff:
    """Return f_1 x ... x f_n, each taken counts[i] times: the trade-off of all experiments together, run independently.

    If all are Gaussian, mu^2 = sum mu_i^2 (Dong, Roth and Su 2019). Otherwise the law of the total loss log P/Q is
    composed (dp-accounting), under P and under Q separately, so that no symmetry is assumed. Time grows with the number
    of distinct functions and the square root of their counts.

    Args:
        functions: The functions, at least one.
        counts: How often each is taken, at least once; None for once each.

    Raises:
        ValueError: The counts do not fit the functions, or one is below 1.
    """
    parts = flatten(functions, counts)
    if all(isinstance(f, GaussianTradeOff) for f, _ in parts):
        return GaussianTradeOff(float(np.sqrt(sum(count * f.loss_variance() for f, count in parts))))
    backwards = [(f.inverse(), count) for f, count in parts]
    interval = min(_interval(parts), _interval(backwards))
    forward, backward = (_hockey_sticks(_loss_law(side, interval), interval) for side in (parts, backwards))
    return ComposedTradeOff(*_envelope(*forward, *backward), parts)


def flatten(functions: Sequence[TradeOff], counts: Sequence[int] | None = None) -> list[tuple[TradeOff, int]]:
    """Return distinct functions with their counts, composed ones split into their parts.

    Args:
        functions: The functions, at least one.
        counts: How often each is taken, at least once; None for once each.

    Raises:
        ValueError: The counts do not fit the functions, or one is below 1.
    """
    counts = [1] * len(functions) if counts is None else list(counts)
    if len(counts) != len(functions) or not functions:
        raise ValueError(f"one count a function, and at least one: got {len(functions)} and {len(counts)}")
    if min(counts) < 1:
        raise ValueError("a function is composed at least once")
    parts: dict[TradeOff, int] = {}
    for function, count in zip(functions, counts, strict=True):
        inner = function.parts if isinstance(function, ComposedTradeOff) else ((function, 1),)
        for f, times in inner:
            parts[f] = parts.get(f, 0) + count * times
    return list(parts.items())


def _interval(parts: Sequence[tuple[TradeOff, int]]) -> float:
    """Return the grid interval of the loss for these parts."""
    spread = np.sqrt(sum(count * _finite_variance(f) for f, count in parts))
    steps = sum(count for _, count in parts)
    grid = GRID / ATOMS if any(isinstance(f, PiecewiseLinear) for f, _ in parts) else GRID
    return float(min(max(grid * spread / np.sqrt(steps), 16 * spread / BUCKETS), grid)) or grid


def _finite_variance(f: TradeOff) -> float:
    """Return the variance of the loss under P; that of its finite values where some are infinite."""
    variance = f.loss_variance()
    if np.isfinite(variance):
        return variance
    if not isinstance(f, PiecewiseLinear):
        raise ValueError(f"the loss of {f!r} has no finite variance")
    p, q = f.masses()
    seen = (p > 0) & (q > 0)
    loss = np.log(p[seen] / q[seen])
    return float(np.average(loss**2, weights=p[seen])) if seen.any() else 0.0


def _loss_law(parts: Sequence[tuple[TradeOff, int]], interval: float) -> pld_pmf.DensePLDPmf:
    """Return the law of the total loss log P/Q under P on a grid, by connecting the dots of each hockey-stick curve."""
    steps = sum(count for _, count in parts)
    total = None
    for f, count in parts:
        low, high = -_reach(f.inverse(), interval, TAIL / steps), _reach(f, interval, TAIL / steps)
        delta = np.clip(f.hockey_stick(interval * np.arange(low, high + 1)), 0.0, 1.0)
        law = pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, low, high, delta).to_dense_pmf()
        law = law.self_compose(count, TAIL)
        total = law if total is None else pld_pmf.compose_pmfs(total, law, TAIL)
    return total


def _reach(f: TradeOff, interval: float, tail: float) -> int:
    """Return the number of grid points beyond which at most `tail` of P's mass has a larger finite loss."""
    limit = int(LARGEST_LOSS / interval)
    infinite = float(f.hockey_stick(LARGEST_LOSS))
    low, high = 0, 1
    while high < limit and f.hockey_stick(high * interval) - infinite > tail:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if f.hockey_stick(middle * interval) - infinite > tail:
            low = middle
        else:
            high = middle
    return min(high, limit)


def _hockey_sticks(law: pld_pmf.DensePLDPmf, interval: float) -> tuple[Floats, Floats]:
    """Return (epsilon >= 0, delta) up to where delta has all but reached the mass of infinite losses.

    It reads the law's arrays: dp-accounting evaluates many epsilons in a Python loop, which would take most of the
    time.
    """
    loss = interval * (law._lower_loss + np.arange(law.size))
    # From the top: P's and Q's mass of losses above each one.
    above_p = np.cumsum(law._probs[::-1])[::-1]
    above_q = np.cumsum((law._probs * np.exp(-np.maximum(loss, 0.0)))[::-1])[::-1]
    largest = loss[max(int(np.searchsorted(-above_p, -CURVE_TAIL)) - 1, 0)]
    epsilon = np.linspace(0.0, max(largest, 1e-9), LINES)
    first = np.searchsorted(loss, epsilon, side="right")
    above_p, above_q = np.append(above_p, 0.0), np.append(above_q, 0.0)
    return epsilon, law._infinity_mass + above_p[first] - np.exp(epsilon) * above_q[first]


def _envelope(forward: Floats, delta: Floats, backward: Floats, reverse: Floats) -> tuple[Floats, Floats]:
    """Return the knots (alpha, beta) of the upper envelope of the supporting lines.

    The lines are 1 - delta_QP - e^epsilon alpha, of slope -1 and steeper, and e^-epsilon (1 - delta_PQ - alpha), of
    slope -1 and flatter.
    """
    slope = np.concatenate([np.exp(backward[:0:-1]), [1.0], np.exp(-forward[1:])])
    middle = 1 - max(delta[0], reverse[0])
    intercept = np.concatenate([1 - reverse[:0:-1], [middle], np.exp(-forward[1:]) * (1 - delta[1:])])
    alpha = np.diff(intercept) / np.diff(slope)
    beta = intercept[1:] - slope[1:] * alpha
    ends = [0.0, intercept[-1] / slope[-1]], [intercept[0], 0.0]
    return np.clip(np.append(alpha, ends[0]), 0.0, 1.0), np.clip(np.append(beta, ends[1]), 0.0, 1.0)
