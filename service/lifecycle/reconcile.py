"""Looks after all jobs: takes them back from workers that died, wakes workers, and deletes what deletions have left.

Every API and worker process runs a Reconciler in a thread; the one that holds the scheduler's row does the work. Were
two to do it at once, each job would still be locked by one of them only, and a wake-up too many finds nothing to do.
"""

import logging
import threading
import time
from datetime import timedelta

from sqlalchemy import Interval, literal
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.job_rows import now
from service.lifecycle.jobs import expire_one
from service.lifecycle.leftovers import leftover_prefixes, purge
from service.lifecycle.orphans import sweep_datasets
from service.lifecycle.purging import purge_due
from service.lifecycle.retention import delete_too_old
from service.lifecycle.transitions import TERMINAL, State
from service.lifecycle.uploads import delete_expired_uploads
from service.lifecycle.wakeup import wake
from service.lifecycle.workers import delete_stale_workers, wake_ups_due
from service.lifecycle.workspaces import delete_due_workspaces, forget_deleted_workspaces
from service.settings import LANES, Settings
from service.store.database_errors import cause_of
from service.store.expiry import delete_expired_answers, delete_old_log_entries
from service.store.objects import ObjectStore
from service.store.tables import Scheduler

PURGING = 0.4
"""The largest part of the time between two rounds that is spent on purging deleted resources."""

SWEEP_SECONDS = 3600.0
"""Between two looks for objects of datasets that were never recorded, and for what is kept no longer."""

log = logging.getLogger(__name__)

MISSED_ROUNDS = 3
"""How many rounds late the process that reconciles counts as gone, and another takes its place."""


def hold_scheduler(session: Session, *, owner: str, seconds: float) -> bool:
    """Take or keep the one row that makes a process the scheduler; False where another process has it.

    Args:
        session: An open transaction.
        owner: Names the process.
        seconds: How long it is the scheduler without calling this again.
    """
    until = now() + literal(timedelta(seconds=seconds), Interval())
    held = session.scalar(
        insert(Scheduler)
        .values(id=1, owner=owner, lease_expires_at=until)
        .on_conflict_do_update(
            index_elements=["id"],
            set_={"owner": owner, "lease_expires_at": until},
            where=(Scheduler.owner == owner) | (Scheduler.lease_expires_at <= now()),
        )
        .returning(Scheduler.owner)
    )
    return held == owner


class Reconciler:
    """One process's part in it. `owner` names the process for good."""

    def __init__(
        self, settings: Settings, sessions: sessionmaker[Session], objects: ObjectStore, *, owner: str
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._objects = objects
        self._owner = owner
        self._expire_at = 0.0
        self._sweep_at = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begins at once, in a thread of its own."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ends after the round under way."""
        self._over.set()
        self._thread.join(timeout)

    def round(self) -> bool:
        """One round, if this process holds the scheduler's row; whether it does.

        Raises sqlalchemy.exc.OperationalError while the database is away.
        """
        seconds = MISSED_ROUNDS * self._settings.reconcile_seconds
        with self._sessions.begin() as session:
            if not hold_scheduler(session, owner=self._owner, seconds=seconds):
                return False
        while self._expire_one():
            pass
        with self._sessions.begin() as session:
            delete_stale_workers(session)
            delete_expired_answers(session)
            delete_expired_uploads(session)
            delete_old_log_entries(session, days=self._settings.audit_log_days)
            due = {lane: wake_ups_due(session, lane, self._settings) for lane in LANES}
        for lane, slots in due.items():
            if slots:
                wake(self._settings, lane, slots)
        # Last, and not for long: nobody waits for it.
        if time.monotonic() >= self._expire_at and delete_too_old(
            self._sessions, self._settings, seconds=PURGING * self._settings.reconcile_seconds
        ):
            self._expire_at = time.monotonic() + SWEEP_SECONDS
        purge_due(self._sessions, self._objects, seconds=PURGING * self._settings.reconcile_seconds)
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_SECONDS
            forget_deleted_workspaces(self._sessions)
            sweep_datasets(self._sessions, self._objects)
        delete_due_workspaces(
            self._sessions,
            seconds=PURGING * self._settings.reconcile_seconds,
            cancel_seconds=self._settings.cancel_seconds,
        )
        return True

    def _expire_one(self) -> bool:
        leftovers: list[str] = []
        with self._sessions.begin() as session:
            job = expire_one(session, retry_seconds=self._settings.retry_seconds)
            if job is None:
                return False
            if State(job.state) in TERMINAL:
                leftovers = leftover_prefixes(
                    session,
                    kind=job.kind,
                    workspace_id=job.workspace_id,
                    subject_id=job.subject_id,
                    up_to_attempt=job.attempt,
                )
        log.warning("%s %s attempt %d: its worker is gone; %s", job.kind, job.subject_id, job.attempt, job.state)
        purge(self._objects, leftovers)
        return True

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.round()
            except SQLAlchemyError as error:
                log.warning("not reconciled, the database is away: %s", cause_of(error))
            except Exception as error:
                # Of the object store, perhaps: nothing that the next round may not get past.
                log.error("not reconciled: %s", type(error).__name__)
            self._over.wait(self._settings.reconcile_seconds)
