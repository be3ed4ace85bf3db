"""Audits whose truth is known: null distributions, whole recordings, and false discoveries counted over many runs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.stats import skewnorm

from worker.influence.observations import Observations, Steps

SKEW = skewnorm(1.3, *(lambda law: (-law.mean() / law.std(), 1 / law.std()))(skewnorm(1.3)))
"""Mean 0, variance 1, skewness 0.23: as real bulks have."""

NULLS: dict[str, Callable[[Generator, int], np.ndarray]] = {
    "gaussian": lambda g, size: g.normal(size=size),
    "skewed 0.23": lambda g, size: SKEW.rvs(size=size, random_state=g),
    "t20": lambda g, size: g.standard_t(20, size=size) / np.sqrt(20 / 18),
}


def observe(signal: np.ndarray, row: np.ndarray, block: np.ndarray) -> tuple[Observations, Steps]:
    """One step a draw; signal [draws] or [draws, columns]."""
    count = len(signal)
    steps = Steps(np.ones(count), np.ones(count), np.ones(count, dtype=np.int64), block)
    signal = signal.reshape(count, -1)
    return Observations(row, np.arange(count), signal, signal), steps


def epochs_of(
    generator: Generator, person: np.ndarray, epochs: int, *, noise: float = 1.0, batch: int = 80
) -> tuple[Observations, Steps]:
    """Every sample drawn once an epoch, in shuffled order: its own value and the noise of the draw."""
    rows = len(person)
    row = np.concatenate([generator.permutation(rows) for _ in range(epochs)])
    noisy = person[row] + noise * generator.normal(size=person[row].shape)
    return observe(noisy, row, np.arange(len(row)) // batch)


@dataclass
class Tally:
    """False discoveries over all discoveries, pooled over audits, and the power."""

    false: int = 0
    flags: int = 0
    true: int = 0
    planted: int = 0

    def add(self, flagged: np.ndarray, null: np.ndarray, planted: np.ndarray) -> None:
        """Masks over one audit's samples; what is neither null nor planted counts as neither when it is flagged."""
        self.false += int((flagged & null).sum())
        self.true += int((flagged & planted).sum())
        self.flags += int((flagged & (null | planted)).sum())
        self.planted += int(planted.sum())

    @property
    def fdr(self) -> float:
        """Sum of V over sum of R."""
        return self.false / max(self.flags, 1)

    @property
    def power(self) -> float:
        """Share of the planted samples that were flagged."""
        return self.true / max(self.planted, 1)
