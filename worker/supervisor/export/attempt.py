"""One attempt at an export: a thread writes its content into the object store, another watches and publishes."""

import logging
import threading
import time
from contextvars import copy_context
from dataclasses import dataclass

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.claims import Claim
from service.lifecycle.exports import publish_export, record_export_progress
from service.settings import Settings
from service.store.objects import ObjectStore, export_key, export_prefix
from service.store.tables import Export
from worker.process.shutdown import GracePeriods, Reason
from worker.supervisor.audit.event_recorder import PROGRESS_SECONDS
from worker.supervisor.database import JobDatabase, LeaseLostError
from worker.supervisor.export.content import Content, ExportWork, plan_export
from worker.supervisor.export.writers import MeasuredFile
from worker.supervisor.lease import LeaseKeeper
from worker.supervisor.outcome import AttemptOutcome

log = logging.getLogger(__name__)


class ExportAttempt:
    """What becomes of one claim. Every write is fenced by (job, attempt, owner) and by the lease."""

    def __init__(
        self,
        settings: Settings,
        sessions: sessionmaker[Session],
        objects: ObjectStore,
        claim: Claim,
        lease: LeaseKeeper,
        *,
        stopping: threading.Event,
        grace_periods: GracePeriods,
    ) -> None:
        """Once `stopping` is set, the writing ends and the job goes back to the queue."""
        self._settings = settings
        self._database = JobDatabase(sessions)
        self._objects = objects
        self._claim = claim
        self._grace_periods = grace_periods
        self._outcome = AttemptOutcome(settings, self._database, objects, claim, lease, stopping=stopping)
        self._prefix = export_prefix(claim.workspace_id, claim.subject_id, claim.attempt)

    def run(self) -> str:
        """Takes the job to a terminal state, or back to the queue; says which. Raises only what ends a process."""
        return self._outcome.run(self._run)

    def _run(self) -> str:
        self._outcome.purge_earlier()
        work = self._outcome.run_with_retry(lambda session: plan_export(session, self._claim))
        writing = _Writing(work, self._objects, self._claim, self._outcome)
        writing.start()
        reason = self._attend(writing, work)
        if reason is not None:
            # One that is just sending a large object to a bucket cannot be told; it deletes the object itself.
            if not writing.stop(self._grace_periods.cancelled):
                log.warning("the export is still being stored; what comes of it is deleted")
            else:
                self._objects.delete_tree(self._prefix)
            return self._outcome.stopped(reason)
        return self._publish(writing.result())

    def _attend(self, writing: "_Writing", work: ExportWork) -> Reason | None:
        """Shows the progress until the content is stored; why it has to end before that."""
        started = time.monotonic()
        shown_at = 0.0
        while not writing.ended.wait(self._settings.poll_seconds):
            reason = self._outcome.reason_to_stop()
            if reason is not None:
                log.info("stopping the export: %s", reason.value)
                return reason
            if time.monotonic() - shown_at >= PROGRESS_SECONDS:
                shown_at = time.monotonic()
                self._show(work, writing.done, shown_at - started)
        return None

    def _show(self, work: ExportWork, done: int, seconds: float) -> None:
        eta = seconds * (work.records - done) / done if done else None
        self._database.try_once(
            lambda session: record_export_progress(
                session, self._claim, done=done, total=work.records, unit=work.unit, eta_seconds=eta
            )
        )

    def _publish(self, stored: "_Stored") -> str:
        """The object is there; now the row names it. Without that it goes again."""

        def publish(session: Session) -> bool:
            if session.get_one(Export, self._claim.subject_id).published_attempt == self._claim.attempt:
                return True  # An earlier try was committed, and the connection broke before we heard of it.
            return publish_export(session, self._claim, rows=stored.rows, bytes=stored.bytes, sha256=stored.sha256)

        committed = False
        try:
            committed = self._outcome.run_with_retry(publish)
        except (OperationalError, LeaseLostError):
            committed = True  # Perhaps: the object stays, since the row may name it. The next attempt sees to it.
            raise
        finally:
            if not committed:
                self._objects.delete_tree(self._prefix)
        return "published" if committed else self._outcome.cancelled()


@dataclass(frozen=True)
class _Stored:
    rows: int
    bytes: int
    sha256: str


class _StoppedError(Exception):
    """The writing was told to end."""


class _Writing:
    """The thread that writes. It looks for the wish to end between any two pieces of the content."""

    def __init__(self, work: ExportWork, objects: ObjectStore, claim: Claim, outcome: AttemptOutcome) -> None:
        self.done = 0
        self.ended = threading.Event()
        self._work = work
        self._objects = objects
        self._claim = claim
        self._outcome = outcome
        self._stopped = threading.Event()
        self._stored: _Stored | None = None
        self._error: Exception | None = None
        # A thread that waits for a bucket must not keep a worker alive that has been asked to end.
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="export", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Tells it to end; whether it has within those seconds."""
        self._stopped.set()
        return self.ended.wait(seconds)

    def result(self) -> _Stored:
        """What it has stored, once it has ended. Raises what it ended with."""
        if self._stored is None:
            assert self._error is not None
            raise self._error
        return self._stored

    def _run(self) -> None:
        claim = self._claim
        try:
            with self._objects.create(export_key(claim.workspace_id, claim.subject_id, claim.attempt)) as file:
                measured = MeasuredFile(file)
                content = Content(self._work, self._objects, self._outcome.run_with_retry, self._tick)
                rows = content.write(measured)
            self._stored = _Stored(rows, measured.bytes, measured.sha256)
        except Exception as error:
            self._error = error
        finally:
            if self._stopped.is_set():
                self._objects.delete_tree(export_prefix(claim.workspace_id, claim.subject_id, claim.attempt))
            self.ended.set()

    def _tick(self, done: int) -> None:
        if self._stopped.is_set():
            raise _StoppedError
        self.done = done
