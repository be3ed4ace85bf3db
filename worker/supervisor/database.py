"""Transactions of a worker, whose database may be away for a while."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

log = logging.getLogger(__name__)

AWAY_SECONDS = 120.0
"""So long a write that matters is tried again: a database that restarts is back in a minute."""

LONGEST_PAUSE_SECONDS = 5.0

T = TypeVar("T")


class LeaseLostError(Exception):
    """The job is no longer this worker's, or may not be: nothing more is written."""


class JobDatabase:
    """Sessions that outlive a database that is away."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def try_once(self, act: Callable[[Session], T]) -> T | None:
        """One transaction; None while the database is away, which a child at work need not notice."""
        try:
            with self._sessions.begin() as session:
                return act(session)
        except OperationalError as error:
            log.warning("the database is away: %s", type(error.orig).__name__)
            return None

    def run_with_retry(self, act: Callable[[Session], T], *, while_true: Callable[[], bool] = lambda: True) -> T:
        """One transaction that an absence of the database of AWAY_SECONDS does not undo.

        Raises LeaseLostError once `while_true` no longer holds, and OperationalError in the end: then it may or may
        not have been committed.
        """
        started = time.monotonic()
        pause = 0.25
        while True:
            if not while_true():
                raise LeaseLostError
            try:
                with self._sessions() as session:
                    done = act(session)
                    session.commit()
                    return done
            except OperationalError as error:
                if time.monotonic() - started > AWAY_SECONDS:
                    raise
                log.warning("the database is away: %s", type(error.orig).__name__)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
