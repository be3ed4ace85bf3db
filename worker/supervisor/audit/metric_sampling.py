"""Chooses which metrics of a training run are kept as events: some hundred per audit, however long it is."""

from service.contract.protocol import MetricEvent

POINTS = 100
"""How many losses are kept, and how many measurements of the probe."""


class MetricSampler:
    """Keeps the first metric of each of POINTS equal stretches of the run, and likewise the first with a probe loss."""

    def __init__(self, steps: int) -> None:
        """Expect a run of so many optimiser steps."""
        self._stride = max(1, -(-steps // POINTS))
        self._next = 0
        self._next_probe = 0

    def keep(self, event: MetricEvent) -> bool:
        """Return whether this metric is kept. Has to be called once for each, in the order of the steps."""
        stretch = event.step // self._stride
        wanted = stretch >= self._next or (event.probe_loss is not None and stretch >= self._next_probe)
        if wanted:
            self._next = stretch + 1
            if event.probe_loss is not None:
                self._next_probe = stretch + 1
        return wanted
