"""Transactions of a worker, which must survive a database that is unreachable for a while."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from psycopg.errors import IdleInTransactionSessionTimeout
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service.store.database_errors import cause_of
from service.store.objects import ObjectStore
from worker.supervisor.errors import LeaseLostError

log = logging.getLogger(__name__)

AWAY_SECONDS = 120.0
"""For how long an important write is retried. A database that restarts is back within a minute."""

LONGEST_PAUSE_SECONDS = 5.0
"""The longest time between two tries of a write."""

PROGRESS_SECONDS = 1.0
"""Progress within a stage is written at most this often."""

T = TypeVar("T")


class JobDatabase:
    """Runs the transactions of jobs, of which some may be left out while the database is unreachable."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def try_once(self, act: Callable[[Session], T]) -> T | None:
        """Run `act` in one transaction; return None if the database is unreachable.

        For writes that do not matter, such as progress: a child at work must not be held up by them.
        """
        try:
            with self._sessions.begin() as session:
                return act(session)
        except OperationalError as error:
            log.warning("the database is away: %s", cause_of(error))
            return None

    def run_with_retry(self, act: Callable[[Session], T], *, while_true: Callable[[], bool] = lambda: True) -> T:
        """Run `act` in one transaction, retrying while the database is unreachable or has ended it as idle.

        Args:
            act: Called again on each try. It must be safe to repeat, since a commit may succeed without an answer.
            while_true: Checked before each try.

        Returns:
            What `act` returned.

        Raises:
            LeaseLostError: `while_true` returned False.
            OperationalError: The database was unreachable for AWAY_SECONDS. The commit may or may not have happened.
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
            except DBAPIError as error:
                if not _passes(error) or time.monotonic() - started > AWAY_SECONDS:
                    raise
                log.warning("the database is away: %s", cause_of(error))
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _passes(error: DBAPIError) -> bool:
    """Whether the database was unreachable, or ended the transaction because this process stood still in it."""
    return isinstance(error, OperationalError) or isinstance(error.orig, IdleInTransactionSessionTimeout)


def delete_unless_committed(objects: ObjectStore, prefix: str, commit: Callable[[], bool]) -> bool:
    """Run `commit`, which names the objects under `prefix` in the database, and delete them if it did not.

    Args:
        objects: The store that holds the objects.
        prefix: The prefix of their keys.
        commit: Returns whether the database names the objects now. It may raise as `run_with_retry` does.

    Returns:
        What `commit` returned.
    """
    committed = False
    try:
        committed = commit()
    except (OperationalError, LeaseLostError):
        # A row may name the objects by now, so they stay. The next attempt deletes what no row names.
        committed = True
        raise
    finally:
        if not committed:
            objects.delete_tree(prefix)
    return committed
