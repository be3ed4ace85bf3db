"""What an attempt adds to the counters of /metrics: time by stage, and samples trained on."""

import logging
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.contract.protocol import Stage
from service.store.counters import Counted, count_aside

log = logging.getLogger(__name__)

COUNT_SECONDS = 10.0
"""A stage of hours is counted while it lasts, at most this often: else its samples would all come at its end."""


class StageCounters:
    """Time and samples of one attempt. What the database could not be told is told the next time."""

    def __init__(self, write: Callable[[Callable[[Session], bool]], bool | None]) -> None:
        """`write` does one transaction, or returns None while the database is away."""
        self._write = write
        self._stage: Stage | None = None
        self._since = self._counted_at = time.monotonic()
        self._uncounted: dict[tuple[Counted, str], float] = {}

    def enter(self, stage: Stage | None) -> None:
        """From now on time is spent in this stage; None: in none. Again the same: nothing changes."""
        if stage is self._stage:
            return
        self._take_time()
        self._stage = stage
        self.count(now=stage is None)

    def add_samples(self, number: int) -> None:
        """So many were trained on."""
        self._add(Counted.SAMPLES, "", number)

    def count(self, *, now: bool = False) -> None:
        """Writes to the database, if it is time or `now`."""
        if not now and time.monotonic() - self._counted_at < COUNT_SECONDS:
            return
        self._counted_at = time.monotonic()
        self._take_time()
        amounts = dict(self._uncounted)
        try:
            if amounts and self._write(lambda session: count_aside(session, amounts)):
                self._uncounted.clear()
        except SQLAlchemyError as error:
            # Figures are not worth an audit.
            log.warning("not counted: %s", type(error).__name__)

    def _take_time(self) -> None:
        now = time.monotonic()
        if self._stage is not None:
            self._add(Counted.STAGE_SECONDS, self._stage.value, now - self._since)
        self._since = now

    def _add(self, name: Counted, label: str, amount: float) -> None:
        self._uncounted[name, label] = self._uncounted.get((name, label), 0.0) + amount
