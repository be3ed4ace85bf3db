"""One attempt at counting a dataset's near-duplicates, in a child: it takes minutes of a processor and much memory."""

import logging
import os
import signal
import sys
from pathlib import Path

from pydantic import ValidationError

from service.contract.failure import NEXT_STEP, ErrorCode, Failure
from service.contract.protocol import COUNTED_FILE, ROWS_FILE
from service.contract.results import NearDuplicates
from service.lifecycle.datasets import publish_near_duplicates
from service.store.objects import ObjectMissingError, dataset_key
from service.store.tables import Dataset
from worker.process.child_process import ChildProcess, Exited, offline_environment
from worker.process.launcher import Spawner
from worker.process.shutdown import Reason
from worker.process.workdirs import sweep, work_folder
from worker.supervisor.context import AttemptContext
from worker.supervisor.errors import InputMissingError, LeaseLostError
from worker.supervisor.outcome import FENCED, AttemptOutcome

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "worker.child.count_near_duplicates")
"""The program that counts, in a process of its own, so that it can be stopped."""

ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Nobody waits for the count, so other work on the machine goes first."""


class NearDuplicatesAttempt:
    """An attempt at a claimed count. If it fails, the dataset stays as it is."""

    def __init__(self, context: AttemptContext) -> None:
        self._context = context
        self._outcome = AttemptOutcome(context)

    def run(self) -> str:
        """Take the job to a terminal state or back to the queue, and return which. Raises only what ends a process."""
        return self._outcome.run(self._run)

    def _run(self) -> str:
        context, claim = self._context, self._context.claim
        if context.run_with_retry(lambda session: session.get(Dataset, claim.subject_id)) is None:
            return self._publish(None)
        sweep(context.settings.work)
        with work_folder(context.settings.work, f"{claim.subject_id}.{claim.attempt}.") as folder:
            try:
                context.objects.fetch(dataset_key(claim.workspace_id, claim.subject_id, ROWS_FILE), folder / ROWS_FILE)
            except ObjectMissingError:
                raise InputMissingError("The dataset's rows are") from None
            ending = self._count(folder)
            if isinstance(ending, Reason):
                return self._outcome.stopped(ending)
            if ending != 0:
                return self._outcome.failed(_failure_of(ending))
            try:
                counted = NearDuplicates.model_validate_json((folder / COUNTED_FILE).read_bytes())
            except (FileNotFoundError, ValidationError):
                return self._outcome.failed(_failure_of(ending))
        return self._publish(counted)

    def _count(self, folder: Path) -> int | Reason:
        """Run the child to its end. Returns its exit code, or why it was stopped."""
        context = self._context
        if context.lease.lost:
            raise LeaseLostError
        environment = offline_environment(os.environ) | ONE_THREAD
        child = ChildProcess(Spawner(COMMAND), folder, environment, ttl_s=context.lease.left)
        try:
            while not isinstance(item := child.next(context.settings.poll_seconds), Exited):
                reason = context.reason_to_stop()
                if reason is not None:
                    log.info("stopping the child: %s", reason.value)
                    return reason
            return item.code
        finally:
            # It is killed at once, as it has nothing to save.
            child.kill()

    def _publish(self, counted: NearDuplicates | None) -> str:
        context = self._context
        ours = context.run_with_retry(lambda session: publish_near_duplicates(session, context.claim, counted))
        return "published" if ours else FENCED


def _failure_of(code: int) -> Failure:
    killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code} and without a result"
    return Failure(
        code=ErrorCode.KILLED if killed else ErrorCode.CHILD_CRASHED,
        message=f"The process that counts near-duplicates {how}.",
        hint=NEXT_STEP["dataset"],
    )
