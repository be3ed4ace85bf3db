"""Progress and events of a child, as JSON lines."""

import time
from typing import TextIO

from pydantic import BaseModel

from service.contract.protocol import ProgressEvent, Stage

PROGRESS_SECONDS = 0.5
"""The shortest time between two reports of progress."""


class Reporter:
    """Prints events; the only writer to the real stdout."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = 0.0
        self._stage: Stage | None = None
        self._started = 0.0
        self.seconds: dict[str, float] = {}

    def event(self, event: BaseModel) -> None:
        """Write an event as a line of JSON."""
        self._stream.write(event.model_dump_json() + "\n")
        self._stream.flush()

    def stage(self, stage: Stage, total: int | None = None, unit: str = "") -> None:
        """Begin a stage and note how long the last one took.

        Args:
            stage: The stage that begins.
            total: How many units it has; None: not known.
            unit: What is counted, in the plural.
        """
        self.close()
        self._stage, self._started, self._last = stage, time.monotonic(), 0.0
        self.event(ProgressEvent(stage=stage, done=0, total=total, unit=unit))

    def progress(self, done: int, total: int, unit: str, eta: float | None = None) -> None:
        """Report progress within the stage, unless the last report was half a second ago or less and the stage goes on.

        Args:
            done: How many units are done.
            total: How many units there are.
            unit: What is counted, in the plural.
            eta: Estimated seconds until the end of the stage; None: not known.
        """
        assert self._stage is not None
        now = time.monotonic()
        if done < total and now - self._last < PROGRESS_SECONDS:
            return
        self._last = now
        self.event(ProgressEvent(stage=self._stage, done=done, total=total, unit=unit, eta_seconds=eta))

    def close(self) -> None:
        """Ends the stage under way."""
        if self._stage is not None:
            self.seconds[self._stage.value] = time.monotonic() - self._started
            self._stage = None
