"""When the probe's gradient is measured anew: as it turns, within a share of what the run costs."""

import math
from collections.abc import Mapping
from typing import Any

STEADY = 0.9
"""Cosine of the probe gradient with its last measurement at which measurements are rightly spaced."""

SHARE = 0.06
"""The share of the run's tokens that measurements may cost for one probe."""

FURTHER_PROBE = 0.3
"""How much of that each further probe adds: eight probes cost a fifth of a run, and not two fifths."""

MIN_MEASUREMENTS = 6
"""Measurements that every run has, whatever they cost: on few samples accuracy matters more than minutes."""

FIRST_INTERVAL = 10
"""Optimiser steps from the first measurement to the second."""

WARM_UP_STEPS = 10
"""Steps whose signals are not used: the second moment is an average over too few gradients to precondition with."""


def warm_up_of(steps: int) -> int:
    """Steps whose signals are not used; short runs keep at least seven eighths of theirs."""
    return min(WARM_UP_STEPS, math.ceil(steps / 8))


class RefreshSchedule:
    """Tells at each step whether to measure, and learns from how far the gradient had turned.

    A measurement costs `cost` tokens, the run without any `planned`. The interval grows while the gradient keeps its
    direction and shrinks while it turns. Where that would spend the measurements before the last step, each interval
    is the same share of the steps taken so far: the gradient turns about as 1 / step, so each lets it turn as far.
    """

    def __init__(self, *, start: int, total: int, planned: int, cost: int, probes: int) -> None:
        self._total = total
        share = SHARE * (1 + FURTHER_PROBE * (probes - 1))
        self.most = max(MIN_MEASUREMENTS, math.floor(share * planned / max(cost, 1)))
        """Measurements of the whole run, at most."""
        self._left = self.most
        self._interval = float(FIRST_INTERVAL)
        self._due = start

    def due(self, step: int) -> bool:
        """Whether to measure before `step` (counted from 0)."""
        return step >= self._due and self._left > 0

    def measured(self, step: int, cosine: float | None) -> None:
        """Record a measurement, and decide when the next one is due.

        Args:
            step: The step before which it was made.
            cosine: Cosine of the probe gradients with those of the measurement before; None at the first.
        """
        self._left -= 1
        if cosine is not None:
            # The angle grows about linearly with the steps between.
            angle = max(math.acos(min(1.0, max(-1.0, cosine))), 1e-6)
            self._interval *= min(2.0, max(0.5, math.acos(STEADY) / angle))
        self._interval = max(self._interval, self._lasting(step))
        self._due = step + max(1, round(self._interval))

    def _lasting(self, step: int) -> float:
        """The interval with which the measurements left, at steps that grow by one factor, reach the run's end."""
        taken = max(step, 1)
        return taken * ((self._total / taken) ** (1 / (self._left + 1)) - 1)

    def state_dict(self) -> dict[str, Any]:
        """What it has learned and spent."""
        return {"left": self._left, "interval": self._interval, "due": self._due}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self._left, self._interval, self._due = state["left"], state["interval"], state["due"]
