"""Spearman's rank correlation, without a statistics library."""

import math
from collections.abc import Sequence

FIELLER = 1.06
"""On Fisher's scale the variance of the coefficient is about 1.06 / (n - 3) (Fieller, Hartley and Pearson, 1957)."""


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; equal values share their mean rank.

    Args:
        first: One value per sample.
        second: Another value of each sample, in the same order.

    Returns:
        The coefficient in [-1, 1]; None if a sequence is constant or has only one value.
    """
    ranks = _ranks(first), _ranks(second)
    mean = (len(first) + 1) / 2
    a, b = ([rank - mean for rank in own] for own in ranks)
    scale = math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))
    if scale == 0:
        return None
    return max(-1.0, min(1.0, math.fsum(x * y for x, y in zip(a, b, strict=True)) / scale))


def spearman_interval(value: float, samples: int) -> tuple[float, float] | None:
    """Return an approximate 95 % interval of a rank correlation; None for fewer than ten samples.

    By Fisher's transformation with the variance of Fieller, Hartley and Pearson (1957).

    Args:
        value: The coefficient, in [-1, 1].
        samples: Number of samples that it was computed from.
    """
    if samples < 10:
        return None
    if abs(value) == 1:
        return value, value
    half = 1.959963984540054 * math.sqrt(FIELLER / (samples - 3))
    middle = math.atanh(value)
    return math.tanh(middle - half), math.tanh(middle + half)


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1; equal values share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            ranks[place] = (start + end) / 2 + 1
        start = end + 1
    return ranks
