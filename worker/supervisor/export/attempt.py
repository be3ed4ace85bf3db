"""One attempt at an export: a thread writes its content into the object store, another watches and publishes."""

import logging
import threading
import time
from contextvars import copy_context
from dataclasses import dataclass

from sqlalchemy.orm import Session

from service.lifecycle.exports import publish_export, record_export_progress
from service.store.objects import export_key, export_prefix
from service.store.tables import Export
from worker.process.shutdown import GracePeriods, Reason
from worker.supervisor.context import AttemptContext
from worker.supervisor.database import PROGRESS_SECONDS, delete_unless_committed
from worker.supervisor.export.content import Content, ExportWork, Written, plan_export
from worker.supervisor.export.writers import MeasuredFile
from worker.supervisor.outcome import AttemptOutcome, purge_earlier_attempts

log = logging.getLogger(__name__)


class ExportAttempt:
    """An attempt at a claimed export. Every write is fenced by (job, attempt, owner) and by the lease."""

    def __init__(self, context: AttemptContext, *, grace_periods: GracePeriods) -> None:
        """Give the writing the same grace periods to end that a child has."""
        self._context = context
        self._grace_periods = grace_periods
        self._outcome = AttemptOutcome(context)

    def run(self) -> str:
        """Take the job to a terminal state or back to the queue, and return which. Raises only what ends a process."""
        return self._outcome.run(self._run)

    def _run(self) -> str:
        context = self._context
        purge_earlier_attempts(context)
        work = context.run_with_retry(lambda session: plan_export(session, context.claim))
        writing = _Writing(work, context)
        writing.start()
        reason = self._attend(writing, work)
        if reason is not None:
            # A thread that is sending a large object to a bucket does not hear of it; it deletes the object itself.
            if not writing.stop(self._grace_periods.cancelled):
                log.warning("the export is still being stored; what comes of it is deleted")
            else:
                context.objects.delete_tree(_prefix(context))
            return self._outcome.stopped(reason)
        return self._publish(writing.result())

    def _attend(self, writing: "_Writing", work: ExportWork) -> Reason | None:
        """Show the progress until the content is stored. Returns why the writing has to end before that, if so."""
        started = time.monotonic()
        shown_at = 0.0
        while not writing.ended.wait(self._context.settings.poll_seconds):
            reason = self._context.reason_to_stop()
            if reason is not None:
                log.info("stopping the export: %s", reason.value)
                return reason
            if time.monotonic() - shown_at >= PROGRESS_SECONDS:
                shown_at = time.monotonic()
                self._show(work, writing.done, shown_at - started)
        return None

    def _show(self, work: ExportWork, done: int, seconds: float) -> None:
        eta = seconds * (work.records - done) / done if done else None
        self._context.database.try_once(
            lambda session: record_export_progress(
                session, self._context.claim, done=done, total=work.records, unit=work.unit, eta_seconds=eta
            )
        )

    def _publish(self, stored: "_Stored") -> str:
        """Name the stored object in the row of the export."""
        context, claim = self._context, self._context.claim

        def publish(session: Session) -> bool:
            if session.get_one(Export, claim.subject_id).published_attempt == claim.attempt:
                return True  # An earlier try was committed, and the connection broke before we heard of it.
            return publish_export(
                session,
                claim,
                rows=stored.written.rows,
                bytes=stored.bytes,
                sha256=stored.sha256,
                rows_truncated=stored.written.truncated,
            )

        published = delete_unless_committed(context.objects, _prefix(context), lambda: context.run_with_retry(publish))
        return "published" if published else self._outcome.cancelled()


def _prefix(context: AttemptContext) -> str:
    claim = context.claim
    return export_prefix(claim.workspace_id, claim.subject_id, claim.attempt)


@dataclass(frozen=True)
class _Stored:
    written: Written
    bytes: int
    sha256: str


class _StoppedError(Exception):
    """The writing was told to end."""


class _Writing:
    """The thread that writes. Between any two pieces of the content it looks whether it has to end."""

    def __init__(self, work: ExportWork, context: AttemptContext) -> None:
        self.done = 0
        self.ended = threading.Event()
        self._work = work
        self._context = context
        self._stopped = threading.Event()
        self._stored: _Stored | None = None
        self._error: Exception | None = None
        # A thread that waits for a bucket must not keep a worker alive that has been asked to end.
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="export", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Tell the thread to end. Returns whether it has ended within so many seconds."""
        self._stopped.set()
        return self.ended.wait(seconds)

    def result(self) -> _Stored:
        """Return what the thread has stored, once it has ended. Raises what it ended with."""
        if self._stored is None:
            assert self._error is not None
            raise self._error
        return self._stored

    def _run(self) -> None:
        context, claim = self._context, self._context.claim
        try:
            with context.objects.create(export_key(claim.workspace_id, claim.subject_id, claim.attempt)) as file:
                measured = MeasuredFile(file)
                content = Content(self._work, context.objects, context.run_with_retry, self._tick)
                written = content.write(measured)
            self._stored = _Stored(written, measured.bytes, measured.sha256)
        except Exception as error:
            self._error = error
        finally:
            if self._stopped.is_set():
                context.objects.delete_tree(_prefix(context))
            self.ended.set()

    def _tick(self, done: int) -> None:
        if self._stopped.is_set():
            raise _StoppedError
        self.done = done
