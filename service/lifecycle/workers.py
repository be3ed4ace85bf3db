"""Which workers are alive, what they do, and how many wake-ups a lane can use. Times are the database's."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Interval, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.lifecycle.job_rows import now
from service.lifecycle.transitions import HELD, State
from service.settings import MISSED_BEATS, Lane
from service.store.tables import Audit, Export, Job, Worker

FORGOTTEN_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class WorkerStatus:
    """A worker that is alive."""

    owner: str
    lane: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    kind: str | None
    """Of the job that it runs: audit, export or dataset; None: it is idle."""
    subject_id: str | None
    progressed_at: datetime | None
    """When that audit or export last moved on."""


@dataclass(frozen=True)
class Device:
    """What a worker trains on, and how full it is at the moment."""

    name: str
    memory_bytes: int
    memory_used_bytes: int
    """By whatever process."""


def beat(session: Session, *, owner: str, lane: Lane, host: str, pid: int, device: Device | None = None) -> None:
    """The worker is alive, and this is what it trains on; None: it does not, or the device could not be read."""
    memory = {
        "device": None if device is None else device.name,
        "memory_bytes": None if device is None else device.memory_bytes,
        "memory_used_bytes": None if device is None else device.memory_used_bytes,
    }
    session.execute(
        insert(Worker)
        .values(owner=owner, lane=lane, host=host, pid=pid, **memory)
        .on_conflict_do_update(index_elements=["owner"], set_={"seen_at": now(), **memory})
    )


def leave(session: Session, *, owner: str) -> None:
    """The worker ends."""
    session.execute(delete(Worker).where(Worker.owner == owner))


def delete_stale_workers(session: Session) -> None:
    """Deletes workers that have not been heard of for FORGOTTEN_AFTER."""
    session.execute(delete(Worker).where(Worker.seen_at < now() - literal(FORGOTTEN_AFTER, Interval())))


def live_workers(session: Session, *, heartbeat_seconds: float) -> list[WorkerStatus]:
    """The workers that are alive, the oldest first, with what they run."""
    found = session.execute(
        select(Worker, Job.kind, Job.subject_id, func.coalesce(Audit.progressed_at, Export.progressed_at))
        .outerjoin(Job, (Job.owner == Worker.owner) & Job.state.in_(sorted(HELD)))
        .outerjoin(Audit, Audit.job_id == Job.id)
        .outerjoin(Export, Export.job_id == Job.id)
        .where(is_alive(heartbeat_seconds))
        .order_by(Worker.started_at, Worker.owner)
    ).all()
    return [
        WorkerStatus(
            owner=worker.owner,
            lane=worker.lane,
            host=worker.host,
            pid=worker.pid,
            started_at=worker.started_at,
            seen_at=worker.seen_at,
            kind=kind,
            subject_id=subject_id,
            progressed_at=progressed_at,
        )
        for worker, kind, subject_id, progressed_at in found
    ]


def wake_ups_due(session: Session, lane: Lane, *, heartbeat_seconds: float) -> int:
    """How many wake-ups the lane can use: one for each idle worker, as far as there are due jobs for them."""
    holds = select(Job.id).where(Job.owner == Worker.owner, Job.state.in_(sorted(HELD)))
    idle = session.scalar(
        select(func.count())
        .select_from(Worker)
        .where(Worker.lane == lane, is_alive(heartbeat_seconds), ~holds.exists())
    )
    if not idle:
        return 0
    due = select(Job.id).where(Job.state == State.QUEUED, Job.lane == lane, Job.next_attempt_at <= now()).limit(idle)
    return session.scalar(select(func.count()).select_from(due.subquery())) or 0


def is_alive(heartbeat_seconds: float) -> ColumnElement[bool]:
    """The condition that a worker has been heard of lately; workers say so every `heartbeat_seconds`."""
    patience = timedelta(seconds=MISSED_BEATS * heartbeat_seconds)
    return Worker.seen_at > now() - literal(patience, Interval())
