"""When an audit's training may end: what the running step says of itself, and how long its other seeds will take."""

from collections.abc import Callable
from time import monotonic


class EtaEstimator:
    """Times training steps of one attempt. Steps of one audit differ in their seed alone, so each tells of the others.

    What follows training, and is short beside it, is left out: nothing measured it.
    """

    def __init__(self, training_steps: int, clock: Callable[[], float] = monotonic) -> None:
        """`training_steps` are still to be run in this attempt; clock gives seconds."""
        self._left = training_steps
        self._clock = clock
        self._took: list[float] = []
        self._started: float | None = None

    def start(self) -> None:
        """The next training step starts."""
        self._left -= 1
        self._started = self._clock()

    def finish(self) -> None:
        """It has finished."""
        assert self._started is not None
        self._took.append(self._clock() - self._started)
        self._started = None

    def eta_seconds(self, step_eta_seconds: float | None) -> float | None:
        """Seconds until the last training step ends, by what the running step says of its own; None where unknown."""
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
