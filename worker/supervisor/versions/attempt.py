"""One attempt at comparing a dataset with the version before it."""

import time

from sqlalchemy.orm import Session

from service.contract.protocol import ROWS_FILE
from service.contract.versions import VersionChanges
from service.lifecycle.datasets import publish_version_changes
from service.store.objects import ObjectMissingError, dataset_key
from service.store.tables import Dataset
from worker.process.shutdown import Reason
from worker.supervisor.context import AttemptContext
from worker.supervisor.errors import InputMissingError
from worker.supervisor.outcome import FENCED, AttemptOutcome
from worker.supervisor.versions.comparing import compare_rows


class VersionAttempt:
    """An attempt at a claimed comparison. If it fails, the dataset stays as it is."""

    def __init__(self, context: AttemptContext) -> None:
        self._context = context
        self._outcome = AttemptOutcome(context)
        self._asked_at = 0.0

    def run(self) -> str:
        """Take the job to a terminal state or back to the queue, and return which. Raises only what ends a process."""
        return self._outcome.run(self._run)

    def _run(self) -> str:
        before = self._context.run_with_retry(self._version_before)
        if before is None:
            return self._publish(None)
        try:
            changes = self._compare(before)
        except _StoppedError as error:
            return self._outcome.stopped(error.reason)
        except ObjectMissingError:
            if self._context.run_with_retry(self._version_before) != before:
                return self._publish(None)  # it was deleted meanwhile, and a job for the new neighbours is queued
            raise InputMissingError("The rows of one of the two versions are") from None
        return self._publish(changes)

    def _version_before(self, session: Session) -> str | None:
        dataset = session.get(Dataset, self._context.claim.subject_id)
        return None if dataset is None else dataset.replaces_id

    def _compare(self, before: str) -> VersionChanges:
        context, claim = self._context, self._context.claim
        work = context.settings.work
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (
            context.objects.open(dataset_key(claim.workspace_id, before, ROWS_FILE)) as old,
            context.objects.open(dataset_key(claim.workspace_id, claim.subject_id, ROWS_FILE)) as new,
        ):
            return compare_rows(old, new, replaces_id=before, scratch=work, go_on=self._go_on)

    def _go_on(self) -> None:
        """Look now and then whether the attempt has to stop. Raises _StoppedError."""
        if time.monotonic() - self._asked_at < self._context.settings.poll_seconds:
            return
        self._asked_at = time.monotonic()
        reason = self._context.reason_to_stop()
        if reason is not None:
            raise _StoppedError(reason)

    def _publish(self, changes: VersionChanges | None) -> str:
        context = self._context
        ours = context.run_with_retry(lambda session: publish_version_changes(session, context.claim, changes))
        return "published" if ours else FENCED


class _StoppedError(Exception):
    """The attempt has to end."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason
