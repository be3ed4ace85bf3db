"""Keeps the lease on a job: renews it in a thread of its own, and tells by a monotonic clock when it is lost.

Renewals go on whatever else the worker is busy with, copying scores or waiting for a database. If they do not, the
worker takes the lease for lost before the database does: it counts from before the statement, the database from within.
"""

import logging
import threading
import time
from contextvars import copy_context
from types import TracebackType

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle import jobs
from service.lifecycle.jobs import Claim
from service.store.database_errors import cause_of
from worker.process.child_process import ChildProcess

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Keeps the lease on a claimed job for as long as the block lasts."""

    def __init__(self, sessions: sessionmaker[Session], claim: Claim, *, seconds: float, since: float) -> None:
        """Keep a lease of so many seconds; `since` is time.monotonic() from before the claim."""
        self._sessions = sessions
        self._claim = claim
        self._seconds = seconds
        self._expires_at = since + seconds
        self._fenced = False
        self._over = threading.Event()
        self._child: ChildProcess | None = None
        self._changing = threading.Lock()
        self._thread = threading.Thread(target=copy_context().run, args=(self._renew,), name="lease", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether the job no longer belongs to this worker, or may not."""
        return self._fenced or time.monotonic() >= self._expires_at

    @property
    def good(self) -> bool:
        """Whether the job certainly belongs to this worker."""
        return not self.lost

    @property
    def left(self) -> float:
        """Seconds until the lease is lost, unless it is renewed."""
        return max(0.0, self._expires_at - time.monotonic())

    def pass_on_to(self, child: ChildProcess | None) -> None:
        """Tell this child of every renewal from now on; None tells nobody."""
        with self._changing:
            self._child = child
            if child is not None:
                self._tell(child)

    def __enter__(self) -> "LeaseKeeper":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The thread is not joined: it may wait for a database that does not answer, and finds the job no longer held.
        self._over.set()

    def _renew(self) -> None:
        pause = self._seconds / 3
        while not self._over.wait(pause) and self.good:
            pause = self._seconds / 3
            asked = time.monotonic()
            try:
                with self._sessions.begin() as session:
                    left = jobs.renew(session, self._claim, lease_seconds=self._seconds)
            except SQLAlchemyError as error:
                log.warning("the lease could not be renewed: %s", cause_of(error))
                # Retried soon: what is left of the lease is all the time that there is.
                pause = min(1.0, self._seconds / 10)
                continue
            if left is None:
                self._fenced = True
                return
            with self._changing:
                self._expires_at = asked + left
                if self._child is not None:
                    self._tell(self._child)

    def _tell(self, child: ChildProcess) -> None:
        if self.good:
            child.lease(self.left)
