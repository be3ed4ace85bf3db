"""What a run recorded: one entry for each time a sample was drawn, one entry for each optimiser step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Steps:
    """One entry per optimiser step, in order."""

    learning_rate: NDArray[np.float64]
    clip: NDArray[np.float64]
    """k_t: the factor that gradient clipping applied, 1 where it did not."""
    batch_size: NDArray[np.int64]
    """B_t: samples in the step's batch."""
    block: NDArray[np.int64]
    """Which probe gradient was active: counts refreshes from 0."""

    def __len__(self) -> int:
        return len(self.learning_rate)


@dataclass(frozen=True)
class Observations:
    """One entry for each draw of a sample; K columns for K directions."""

    row: NDArray[np.int64]
    step: NDArray[np.int64]
    """Index into Steps."""
    effect: NDArray[np.float64]
    """[n, K]: s_ti = <G_t, P_t g_ti>; NaN at a step before the preconditioner existed."""
    alignment: NDArray[np.float64]
    """[n, K]: c_ti in [-1, 1]; NaN at a step before the preconditioner existed."""

    def __len__(self) -> int:
        return len(self.row)
