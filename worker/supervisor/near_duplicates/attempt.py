"""One attempt at counting a dataset's near-duplicates, in a child: it takes minutes of a processor and much memory."""

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy.orm import Session, sessionmaker

from service.contract.failure import ErrorCode, Failure
from service.contract.protocol import COUNTED_FILE, ROWS_FILE
from service.contract.results import NearDuplicates
from service.lifecycle.claims import Claim
from service.lifecycle.datasets import publish_near_duplicates
from service.lifecycle.jobs import AGAIN
from service.settings import Settings
from service.store.objects import ObjectMissingError, ObjectStore, dataset_key
from service.store.tables import Dataset
from worker.process.child_process import ChildProcess, Exited, restricted_environment
from worker.process.launcher import Spawner
from worker.process.shutdown import Reason
from worker.process.workdirs import sweep, work_folder
from worker.supervisor.audit.step_folder import InputMissingError
from worker.supervisor.database import JobDatabase, LeaseLostError
from worker.supervisor.lease import LeaseKeeper
from worker.supervisor.outcome import FENCED, AttemptOutcome

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "worker.child.count_near_duplicates")

ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Nobody waits for it: other work on the machine goes first."""


class NearDuplicatesAttempt:
    """What becomes of one claim. Whatever happens, the dataset stays as it is."""

    def __init__(
        self,
        settings: Settings,
        sessions: sessionmaker[Session],
        objects: ObjectStore,
        claim: Claim,
        lease: LeaseKeeper,
        *,
        stopping: threading.Event,
    ) -> None:
        """Once `stopping` is set, the child is ended and the job goes back to the queue."""
        self._settings = settings
        self._objects = objects
        self._claim = claim
        self._lease = lease
        self._outcome = AttemptOutcome(settings, JobDatabase(sessions), objects, claim, lease, stopping=stopping)

    def run(self) -> str:
        """Takes the job to a terminal state, or back to the queue; says which. Raises only what ends a process."""
        return self._outcome.run(self._run)

    def _run(self) -> str:
        claim = self._claim
        if self._outcome.run_with_retry(lambda session: session.get(Dataset, claim.subject_id)) is None:
            return self._publish(None)
        sweep(self._settings.work)
        with work_folder(self._settings.work, f"{claim.subject_id}.{claim.attempt}.") as folder:
            try:
                self._objects.fetch(dataset_key(claim.workspace_id, claim.subject_id, ROWS_FILE), folder / ROWS_FILE)
            except ObjectMissingError:
                raise InputMissingError("The dataset's rows are") from None
            outcome = self._count(folder)
            if isinstance(outcome, Reason):
                return self._outcome.stopped(outcome)
            if outcome != 0:
                return self._outcome.failed(_failure_of(outcome))
            try:
                counted = NearDuplicates.model_validate_json((folder / COUNTED_FILE).read_bytes())
            except (FileNotFoundError, ValidationError):
                return self._outcome.failed(_failure_of(outcome))
        return self._publish(counted)

    def _count(self, folder: Path) -> int | Reason:
        """Runs the child to its end: its exit code, or why it was ended."""
        if self._lease.lost:
            raise LeaseLostError
        environment = restricted_environment(os.environ, self._settings.cache_dir) | ONE_THREAD
        child = ChildProcess(Spawner(COMMAND), folder, environment, ttl_s=self._lease.left)
        try:
            while not isinstance(item := child.next(self._settings.poll_seconds), Exited):
                reason = self._outcome.reason_to_stop()
                if reason is not None:
                    log.info("stopping the child: %s", reason.value)
                    return reason
            return item.code
        finally:
            # It has nothing to save.
            child.kill()

    def _publish(self, counted: NearDuplicates | None) -> str:
        ours = self._outcome.run_with_retry(lambda session: publish_near_duplicates(session, self._claim, counted))
        return "published" if ours else FENCED


def _failure_of(code: int) -> Failure:
    killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code} and without a result"
    return Failure(
        code=ErrorCode.KILLED if killed else ErrorCode.CHILD_CRASHED,
        message=f"The process that counts near-duplicates {how}.",
        hint=AGAIN["dataset"],
    )
