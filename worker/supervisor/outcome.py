"""How an attempt comes to its end without a result, whatever the job is: failed, cancelled, given back, or fenced."""

import logging
import threading
import traceback
from collections.abc import Callable

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.contract.failure import Failure
from service.lifecycle import jobs
from service.lifecycle.claims import Claim
from service.lifecycle.leftovers import leftover_prefixes, purge
from service.settings import Settings
from service.store.objects import ObjectStore
from worker.process.shutdown import Reason
from worker.supervisor.audit.step_folder import InputMissingError, OutputError
from worker.supervisor.database import JobDatabase, LeaseLostError, T
from worker.supervisor.failures import failure_of, is_retried
from worker.supervisor.lease import LeaseKeeper

log = logging.getLogger(__name__)

FENCED = "no longer ours"


class AttemptOutcome:
    """Ends one claim; every method says how in words for the log."""

    def __init__(
        self,
        settings: Settings,
        database: JobDatabase,
        objects: ObjectStore,
        claim: Claim,
        lease: LeaseKeeper,
        *,
        stopping: threading.Event,
    ) -> None:
        """`stopping` is set once this worker has to end."""
        self._settings = settings
        self._database = database
        self._objects = objects
        self._claim = claim
        self._lease = lease
        self._stopping = stopping

    def run(self, attempt: Callable[[], str]) -> str:
        """Runs the attempt; what it raises becomes a failure of the job. Raises only what ends a process."""
        try:
            return attempt()
        except LeaseLostError:
            return FENCED
        except (InputMissingError, OutputError) as error:
            log.error("%s", error)
            return self.failed(error.failure)
        except Exception as error:
            # Neither message nor arguments: a driver's error quotes the data.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s\n%s", type(error).__name__, frames)
            return self.failed(failure_of(error, self._claim.kind))

    def reason_to_stop(self) -> Reason | None:
        """Why the attempt has to end now, if it has to."""
        if self._lease.lost:
            return Reason.LEASE_LOST
        if self._stopping.is_set():
            return Reason.SHUTDOWN
        cancel = self._database.try_once(lambda session: jobs.cancel_requested(session, self._claim))
        return Reason.CANCEL if cancel else None

    def stopped(self, reason: Reason) -> str:
        """After work that was told to stop, or was not begun."""
        if reason is Reason.LEASE_LOST:
            return FENCED
        if reason is Reason.SHUTDOWN:
            ours = self.run_with_retry(lambda session: jobs.release(session, self._claim))
            return "released" if ours else FENCED
        return self.cancelled()

    def cancelled(self) -> str:
        """A user asked for it."""
        return self._end(lambda session: jobs.mark_cancelled(session, self._claim), "cancelled")

    def failed(self, failure: Failure) -> str:
        """For good, or until the next attempt."""

        def fail(session: Session) -> bool:
            return jobs.fail(
                session,
                self._claim,
                failure,
                retry=is_retried(failure),
                retry_seconds=self._settings.retry_seconds,
            )

        try:
            return self._end(fail, f"failed ({failure.code})")
        except LeaseLostError:
            return FENCED
        except OperationalError:
            return f"failed ({failure.code}), which the database could not be told"

    def run_with_retry(self, act: Callable[[Session], T]) -> T:
        """One transaction, for as long as the job is ours. Raises as JobDatabase.run_with_retry."""
        return self._database.run_with_retry(act, while_true=lambda: self._lease.good)

    def purge_earlier(self) -> None:
        """Deletes what earlier attempts have left and nobody needs: nothing names what a killed worker has left."""
        purge(self._objects, self.run_with_retry(lambda session: self._leftovers(session, self._claim.attempt - 1)))

    def _end(self, command: Callable[[Session], bool], outcome: str) -> str:
        """What finished steps of an audit have left stays, for an attempt to come."""

        def end(session: Session) -> list[str] | None:
            return self._leftovers(session, self._claim.attempt) if command(session) else None

        leftovers = self.run_with_retry(end)
        if leftovers is None:
            return FENCED
        purge(self._objects, leftovers)
        return outcome

    def _leftovers(self, session: Session, up_to_attempt: int) -> list[str]:
        claim = self._claim
        return leftover_prefixes(
            session,
            kind=claim.kind,
            workspace_id=claim.workspace_id,
            subject_id=claim.subject_id,
            up_to_attempt=up_to_attempt,
        )
