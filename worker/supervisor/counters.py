"""Adds what an attempt does to the counters of /metrics: time by stage, and samples trained on."""

import logging
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.contract.protocol import Stage
from service.store.counters import Counted, count_aside
from service.store.database_errors import cause_of

log = logging.getLogger(__name__)

COUNT_SECONDS = 10.0
"""How often a stage is counted while it lasts. Otherwise the samples of hours would all be counted at its end."""


class StageCounters:
    """Counts the time and the samples of one attempt. What cannot be written is written the next time."""

    def __init__(self, write: Callable[[Callable[[Session], bool]], bool | None]) -> None:
        """Use `write`, which runs one transaction, or returns None while the database is unreachable."""
        self._write = write
        self._stage: Stage | None = None
        self._since = self._counted_at = time.monotonic()
        self._uncounted: dict[tuple[Counted, str], float] = {}

    def enter(self, stage: Stage | None) -> None:
        """Count the time from now on for this stage; None counts it for no stage. Entering it again changes nothing."""
        if stage is self._stage:
            return
        self._take_time()
        self._stage = stage
        self.count(now=stage is None)

    def add_samples(self, number: int) -> None:
        """Count so many samples as trained on."""
        self._add(Counted.SAMPLES, "", number)

    def count(self, *, now: bool = False) -> None:
        """Write to the database if it is due, or `now`."""
        if not now and time.monotonic() - self._counted_at < COUNT_SECONDS:
            return
        self._counted_at = time.monotonic()
        self._take_time()
        amounts = dict(self._uncounted)
        try:
            if amounts and self._write(lambda session: count_aside(session, amounts)):
                self._uncounted.clear()
        except SQLAlchemyError as error:
            # The figures are not worth an audit that fails.
            log.warning("not counted: %s", cause_of(error))

    def _take_time(self) -> None:
        now = time.monotonic()
        if self._stage is not None:
            self._add(Counted.STAGE_SECONDS, self._stage.value, now - self._since)
        self._since = now

    def _add(self, name: Counted, label: str, amount: float) -> None:
        self._uncounted[name, label] = self._uncounted.get((name, label), 0.0) + amount
