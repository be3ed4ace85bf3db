"""Records from time to time that this worker is alive, in a thread of its own."""

import logging
import os
import socket
import threading
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.workers import beat, leave
from service.settings import Lane
from service.store.database_errors import cause_of
from worker.supervisor.device import read_device

log = logging.getLogger(__name__)


class Heartbeat:
    """Keeps the row of one worker process in `workers` up to date."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        *,
        owner: str,
        lane: Lane,
        seconds: float,
        device_failed: Callable[[], bool] = lambda: False,
    ) -> None:
        """Record `owner` every so many `seconds`, and whether its device has failed."""
        self._sessions = sessions
        self._device_failed = device_failed
        self._owner = owner
        self._lane: Lane = lane
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Record the worker at once, and then from time to time."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Record that this worker takes no more jobs."""
        self._over.set()
        try:
            with self._sessions.begin() as session:
                leave(session, owner=self._owner)
        except SQLAlchemyError as error:
            log.warning("could not sign off: %s", cause_of(error))

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self._beat()

    def _beat(self) -> None:
        device = read_device() if self._lane == "gpu" else None
        host = socket.gethostname()
        try:
            with self._sessions.begin() as session:
                beat(
                    session,
                    owner=self._owner,
                    lane=self._lane,
                    host=host,
                    pid=os.getpid(),
                    device=device,
                    device_failed=self._device_failed(),
                )
        except SQLAlchemyError as error:
            log.warning("no heartbeat, the database is away: %s", cause_of(error))
