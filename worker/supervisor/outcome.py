"""How an attempt ends without a result, whatever the kind of its job: failed, cancelled, given back, or fenced."""

import logging
import traceback
from collections.abc import Callable

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.contract.failure import Failure
from service.lifecycle import jobs
from service.lifecycle.leftovers import leftover_prefixes, purge
from worker.process.shutdown import Reason
from worker.supervisor.context import AttemptContext
from worker.supervisor.errors import InputMissingError, LeaseLostError, OutputError, StoredModelError
from worker.supervisor.failures import failure_of, is_retried

log = logging.getLogger(__name__)

FENCED = "no longer ours"
"""What the log says of a job that another worker has, or nobody."""


class AttemptOutcome:
    """Ends the claimed job. Every method returns how the attempt ended, in words for the log."""

    def __init__(self, context: AttemptContext) -> None:
        self._context = context

    def run(self, attempt: Callable[[], str]) -> str:
        """Run `attempt`, and end the job as failed if it raises. Only what ends a process is raised on."""
        try:
            return attempt()
        except LeaseLostError:
            return FENCED
        except (InputMissingError, OutputError, StoredModelError) as error:
            log.error("%s", error)
            return self.failed(error.failure)
        except Exception as error:
            # Neither message nor arguments: a driver's error quotes the data.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s\n%s", type(error).__name__, frames)
            return self.failed(failure_of(error, self._context.claim.kind))

    def stopped(self, reason: Reason) -> str:
        """End an attempt that was stopped before it had a result."""
        if reason is Reason.LEASE_LOST:
            return FENCED
        if reason is Reason.SHUTDOWN:
            ours = self._context.run_with_retry(lambda session: jobs.release(session, self._context.claim))
            return "released" if ours else FENCED
        return self.cancelled()

    def cancelled(self) -> str:
        """End the job as cancelled, as a user has asked."""
        return self._end(lambda session: jobs.mark_cancelled(session, self._context.claim), "cancelled")

    def failed(self, failure: Failure) -> str:
        """End the attempt as failed: for good, or until the next attempt."""
        context = self._context
        context.on_failure(failure)

        def fail(session: Session) -> bool:
            retry_seconds = context.settings.retry_seconds
            return jobs.fail(session, context.claim, failure, retry=is_retried(failure), retry_seconds=retry_seconds)

        try:
            return self._end(fail, f"failed ({failure.code})")
        except LeaseLostError:
            return FENCED
        except OperationalError:
            return f"failed ({failure.code}), which the database could not be told"

    def _end(self, command: Callable[[Session], bool], outcome: str) -> str:
        """Run the command, and delete what the attempts have left. Files of finished steps stay for a later attempt."""
        context = self._context

        def end(session: Session) -> list[str] | None:
            return _leftovers(session, context, context.claim.attempt) if command(session) else None

        leftovers = context.run_with_retry(end)
        if leftovers is None:
            return FENCED
        purge(context.objects, leftovers)
        return outcome


def purge_earlier_attempts(context: AttemptContext) -> None:
    """Delete what earlier attempts have left and no row names, as a killed worker could not do it."""
    last = context.claim.attempt - 1
    purge(context.objects, context.run_with_retry(lambda session: _leftovers(session, context, last)))


def _leftovers(session: Session, context: AttemptContext, up_to_attempt: int) -> list[str]:
    claim = context.claim
    return leftover_prefixes(
        session,
        kind=claim.kind,
        workspace_id=claim.workspace_id,
        subject_id=claim.subject_id,
        up_to_attempt=up_to_attempt,
    )
