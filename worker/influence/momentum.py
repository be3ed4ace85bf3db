"""How an optimiser's momentum carries a step's gradient into the weights."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Momentum:
    """Step u moves the weights by -eta_u gain_u m_u, with m_u = sum over t <= u of decay^(u-t) d_t P_u g_t.

    Steps are counted from 1. d_t is 1 - dampening but for the first step, where it is 1. With Nesterov's momentum the
    step is -eta_u (P_u g_u + decay m_u). Weight decay has no part in it: what it moves is no sample's doing.
    """

    decay: float
    """b1 of Adam, the momentum of SGD, 0 for none."""
    corrected: bool
    """Whether the sum is a mean corrected for its start, as in Adam; SGD's is a plain sum."""
    dampening: float = 0.0
    """The dampening of SGD, whose first step has none."""
    nesterov: bool = False
    """Whether the step looks ahead, as SGD can."""

    def gains(self, steps: int) -> Floats:
        """gain_u for u = 1 to steps: (1 - decay) / (1 - decay^u) where corrected, else 1."""
        if not self.corrected:
            return np.ones(steps)
        return np.asarray((1.0 - self.decay) / (1.0 - self.decay ** np.arange(1, steps + 1)))

    def step_weights(self, learning_rate: Floats, start: int = 0, stop: int | None = None) -> Floats:
        """Return w_t, the total learning rate with which step t's gradient has moved the weights by the end, [T].

        Args:
            learning_rate: eta_u, [T].
            start: Index of the first step whose movement counts.
            stop: Index after the last one; None for the end. Weights of parts that cover the run add up to its own.
        """
        moved = np.zeros(len(learning_rate))
        moved[start:stop] = (learning_rate * self.gains(len(learning_rate)))[start:stop]
        kept = np.zeros(len(moved))
        tail = 0.0
        for t in range(len(moved) - 1, -1, -1):
            tail = moved[t] + self.decay * tail
            kept[t] = tail
        kept[1:] *= 1.0 - self.dampening
        return moved + self.decay * kept if self.nesterov else kept
