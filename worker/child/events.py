"""Progress and events of a child, as JSON lines."""

import time
from typing import TextIO

from pydantic import BaseModel

from service.contract.protocol import ProgressEvent, Stage

PROGRESS_SECONDS = 0.5


class Reporter:
    """Prints events; the only writer to the real stdout."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = 0.0
        self._stage: Stage | None = None
        self._started = 0.0
        self.seconds: dict[str, float] = {}

    def event(self, event: BaseModel) -> None:
        """One JSON line."""
        self._stream.write(event.model_dump_json() + "\n")
        self._stream.flush()

    def stage(self, stage: Stage, total: int | None = None, unit: str = "") -> None:
        """Begins a stage and notes how long the last one took."""
        self.close()
        self._stage, self._started, self._last = stage, time.monotonic(), 0.0
        self.event(ProgressEvent(stage=stage, done=0, total=total, unit=unit))

    def progress(self, done: int, total: int, unit: str, eta: float | None = None) -> None:
        """Progress within the stage; dropped when the last was less than half a second ago, unless it is the last."""
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
