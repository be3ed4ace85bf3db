"""What every attempt works with, whatever the kind of its job."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from service.contract.failure import Failure
from service.lifecycle import jobs
from service.lifecycle.jobs import Claim
from service.settings import Settings
from service.store.objects import ObjectStore
from worker.process.shutdown import Reason
from worker.supervisor.database import JobDatabase, T
from worker.supervisor.lease import LeaseKeeper


@dataclass(frozen=True)
class AttemptContext:
    """The claim that an attempt works on, and what it needs for that."""

    settings: Settings
    database: JobDatabase
    objects: ObjectStore
    claim: Claim
    lease: LeaseKeeper
    stopping: threading.Event
    """Set once this worker has to end: the attempt then stops, and its job goes back to the queue."""
    on_failure: Callable[[Failure], None] = lambda failure: None
    """Is told why the attempt failed."""

    def reason_to_stop(self) -> Reason | None:
        """Return why the attempt has to stop now, or None if it may go on."""
        if self.lease.lost:
            return Reason.LEASE_LOST
        if self.stopping.is_set():
            return Reason.SHUTDOWN
        cancel = self.database.try_once(lambda session: jobs.cancel_requested(session, self.claim))
        return Reason.CANCEL if cancel else None

    def run_with_retry(self, act: Callable[[Session], T]) -> T:
        """Run `act` as JobDatabase.run_with_retry does, for as long as the lease is good."""
        return self.database.run_with_retry(act, while_true=lambda: self.lease.good)
