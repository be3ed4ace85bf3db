"""What breaks a running stack every few seconds, and which attempts at which audits that has hit."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import select

from service.lifecycle.transitions import HELD, MAX_FAILURES
from service.store.tables import Job
from tests.support.chaos import LEASE_SECONDS, Chaos, Worker


class Kind(StrEnum):
    """Of a fault."""

    CHILD_KILLED = "child killed (-9)"
    WORKER_KILLED = "worker killed (-9)"
    WORKER_STOPPED = "worker stopped past its lease, then continued"
    BROKER_FLUSHED = "broker flushed"
    BROKER_KILLED = "broker killed (-9) and started"
    POSTGRES_RESTARTED = "Postgres restarted"


@dataclass(frozen=True)
class Fault:
    """One fault and the attempts that were under way where it struck. A broker holds no attempt."""

    kind: Kind
    at: datetime
    hit: tuple[tuple[str, int], ...]
    """Audit and attempt."""


class Breaker:
    """Keeps workers running and breaks something each time that it is due; its caller calls `act` all the time."""

    def __init__(self, chaos: Chaos, *, workers: int, seed: int, pause: tuple[float, float]) -> None:
        """`pause`: from and to, in seconds."""
        self.faults: list[Fault] = []
        self._chaos = chaos
        self._chance = random.Random(seed)
        self._pause = pause
        self._running = [chaos.start_worker(ready=False) for _ in range(workers)]
        self._stopped: dict[int, float] = {}
        """Number of a worker that is stopped, and when it goes on."""
        self._bag: list[Kind] = []
        self._due = time.monotonic() + self._chance.uniform(*pause)
        self._strike: dict[Kind, Callable[[], tuple[tuple[str, int], ...] | None]] = {
            Kind.CHILD_KILLED: self._kill_child,
            Kind.WORKER_KILLED: self._kill_worker,
            Kind.WORKER_STOPPED: self._stop_worker,
            Kind.BROKER_FLUSHED: self._flush_broker,
            Kind.BROKER_KILLED: self._kill_broker,
            Kind.POSTGRES_RESTARTED: self._restart_postgres,
        }

    def act(self) -> None:
        """Lets stopped workers go on and does the next fault, where that is due."""
        self._continue(time.monotonic())
        if time.monotonic() < self._due:
            return
        if not self._bag:
            self._bag = self._chance.sample(list(Kind), len(Kind))
        for kind in self._bag:
            at = datetime.now(UTC)
            hit = self._strike[kind]()
            if hit is not None:
                self._bag.remove(kind)
                self.faults.append(Fault(kind, at, hit))
                self._due = time.monotonic() + self._chance.uniform(*self._pause)
                return

    def mend(self) -> None:
        """Lets every stopped worker go on."""
        self._continue(float("inf"))

    def _continue(self, now: float) -> None:
        for number, goes_on_at in list(self._stopped.items()):
            if now >= goes_on_at:
                del self._stopped[number]
                self._running[number].signal(signal.SIGCONT)

    # ------------------------------------------------------------ faults: what they hit; None: not possible now

    def _kill_child(self) -> tuple[tuple[str, int], ...] | None:
        for number in self._targets():
            worker = self._running[number]
            for child in worker.children():
                held = self._held_by(worker)
                child.kill()
                return held
        return None

    def _kill_worker(self) -> tuple[tuple[str, int], ...] | None:
        for number in self._targets():
            worker = self._running[number]
            worker.kill()
            self._running[number] = self._chaos.start_worker(ready=False)
            return self._held_by(worker)
        return None

    def _stop_worker(self) -> tuple[tuple[str, int], ...] | None:
        for number in self._targets():
            worker = self._running[number]
            if not self._held_by(worker):
                continue
            worker.signal(signal.SIGSTOP)
            self._stopped[number] = time.monotonic() + LEASE_SECONDS + self._chance.uniform(1, 3)
            return self._held_by(worker)
        return None

    def _flush_broker(self) -> tuple[tuple[str, int], ...]:
        self._chaos.servers.flush_broker()
        return ()

    def _kill_broker(self) -> tuple[tuple[str, int], ...]:
        self._chaos.servers.kill(self._chaos.servers.valkey)
        self._chaos.servers.revive()
        return ()

    def _restart_postgres(self) -> tuple[tuple[str, int], ...]:
        held = self._held_by(*self._running)
        self._chaos.servers.postgres.stop()
        self._chaos.servers.postgres.start()
        return held

    # ------------------------------------------------------------ whom

    def _targets(self) -> list[int]:
        """Workers that run and hold no audit that one more failure would end, in a random order."""
        spared = {job.subject_id for job in self._held_jobs() if job.failures + 1 >= MAX_FAILURES}
        numbers = [
            number
            for number, worker in enumerate(self._running)
            if number not in self._stopped and not any(audit in spared for audit, _ in self._held_by(worker))
        ]
        return self._chance.sample(numbers, len(numbers))

    def _held_by(self, *workers: Worker) -> tuple[tuple[str, int], ...]:
        """What these workers hold by the job table: also of one that is dead, until its lease has run out."""
        pids = {str(worker.pid) for worker in workers}
        return tuple(
            (job.subject_id, job.attempt)
            for job in self._held_jobs()
            if job.owner is not None and job.owner.split(":")[1] in pids
        )

    def _held_jobs(self) -> list[Job]:
        with self._chaos.sessions() as session:
            return list(session.scalars(select(Job).where(Job.kind == "audit", Job.state.in_(sorted(HELD)))))
