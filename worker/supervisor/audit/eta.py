"""Estimates when an audit's training ends, from what the running step reports and how long earlier seeds took."""

from collections.abc import Callable
from time import monotonic


class EtaEstimator:
    """Times the training steps of one attempt. They differ in their seed alone, so one is a measure of the others.

    What follows training is left out: it is short beside it, and nothing has measured it.
    """

    def __init__(self, training_steps: int, clock: Callable[[], float] = monotonic) -> None:
        """Expect so many training steps in this attempt. `clock` returns seconds."""
        self._left = training_steps
        self._clock = clock
        self._took: list[float] = []
        self._started: float | None = None

    def start(self) -> None:
        """Note that the next training step starts."""
        self._left -= 1
        self._started = self._clock()

    def finish(self) -> None:
        """Note that the training step has finished."""
        assert self._started is not None
        self._took.append(self._clock() - self._started)
        self._started = None

    def eta_seconds(self, step_eta_seconds: float | None) -> float | None:
        """Return the seconds until the last training step ends, given those of the running one; None if unknown."""
        if self._started is None:
            return step_eta_seconds
        elapsed = self._clock() - self._started
        mean = sum(self._took) / len(self._took) if self._took else None
        if step_eta_seconds is not None:
            this = step_eta_seconds
        elif mean is not None:
            this = max(0.0, mean - elapsed)
        else:
            return None
        return this + self._left * (elapsed + this if mean is None else mean)
