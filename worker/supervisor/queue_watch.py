"""Looks from time to time for jobs whose wake-up has not come, so that no job waits for a broker that is away."""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.turns import has_late_job
from service.settings import Lane
from service.store.database_errors import cause_of

LATE = timedelta(seconds=2)
"""A job that has been due for so long has not been woken for: messages take milliseconds."""

log = logging.getLogger(__name__)


class QueueWatch:
    """Looks while the worker is idle, in a thread of its own, and runs what is late there."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        *,
        lanes: Sequence[Lane],
        seconds: float,
        run_if_idle: Callable[[Lane], None],
        max_running: int | None,
        stopping: threading.Event,
    ) -> None:
        """Look every so many `seconds` until `stopping` is set.

        Args:
            sessions: Opens the sessions of the worker's process.
            lanes: Whose jobs the worker takes.
            seconds: Between two looks.
            run_if_idle: Runs the due jobs of a lane, unless the worker is at work.
            max_running: Audits of one workspace that may run at once, where it has no limit of its own; None: any
                number.
            stopping: Set as the worker is to end.
        """
        self._sessions = sessions
        self._lanes = lanes
        self._seconds = seconds
        self._run_if_idle = run_if_idle
        self._max_running = max_running
        self._stopping = stopping
        self._thread = threading.Thread(target=self._run, name="queue watch", daemon=True)

    def start(self) -> None:
        """Begin with the first pause."""
        self._thread.start()

    def stop(self) -> None:
        """Wait until the job that was found here has been left, as `stopping` says."""
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            for lane in self._lanes:
                if self._is_late(lane):
                    self._run_if_idle(lane)

    def _is_late(self, lane: Lane) -> bool:
        try:
            with self._sessions.begin() as session:
                return has_late_job(session, lane, since=LATE, max_running=self._max_running)
        except SQLAlchemyError as error:
            log.debug("no look at the queue, the database is away: %s", cause_of(error))  # the heartbeat warns of it
            return False
