"""Which workers are alive, what they do, and how many wake-ups a lane can use. Times are the database's."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Interval, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.lifecycle.job_rows import now
from service.lifecycle.transitions import HELD
from service.lifecycle.turns import at_limit, is_due
from service.settings import MISSED_BEATS, Lane, Settings
from service.store.tables import Audit, Export, Job, Worker

FORGOTTEN_AFTER = timedelta(days=1)
"""Rows of workers that died are deleted after this time."""


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
    """What it runs: audit, export, dataset or version; None: it is idle."""
    subject_id: str | None
    progressed_at: datetime | None
    """When that audit or export last moved on."""
    device_failed_at: datetime | None
    """Since when it takes no jobs, because its device failed and has passed no check since."""
    memory_bytes: int | None
    """Memory of the worker's device; None if it does not train or the device could not be read."""


@dataclass(frozen=True)
class Device:
    """What a worker trains on, and how full it is at the moment."""

    name: str
    memory_bytes: int
    memory_used_bytes: int
    """By whatever process."""


def beat(
    session: Session,
    *,
    owner: str,
    lane: Lane,
    host: str,
    pid: int,
    device: Device | None = None,
    device_failed: bool = False,
) -> None:
    """Record that a worker is alive.

    Args:
        session: An open transaction.
        owner: The worker's name.
        lane: Whose jobs it takes.
        host: Where it runs.
        pid: Its process there.
        device: What it trains on; None: it does not, or the device could not be read.
        device_failed: The device failed and has passed no check since, so that the worker takes no jobs.
    """
    memory = {
        "device": None if device is None else device.name,
        "memory_bytes": None if device is None else device.memory_bytes,
        "memory_used_bytes": None if device is None else device.memory_used_bytes,
    }
    session.execute(
        insert(Worker)
        .values(owner=owner, lane=lane, host=host, pid=pid, device_failed_at=now() if device_failed else None, **memory)
        .on_conflict_do_update(
            index_elements=["owner"],
            set_={
                "seen_at": now(),
                "device_failed_at": func.coalesce(Worker.device_failed_at, now()) if device_failed else None,
                **memory,
            },
        )
    )


def leave(session: Session, *, owner: str) -> None:
    """Remove a worker that ends from those that are listed.

    Args:
        session: An open transaction.
        owner: Names the worker's process.
    """
    session.execute(delete(Worker).where(Worker.owner == owner))


def delete_stale_workers(session: Session) -> None:
    """Deletes workers that have not been heard of for FORGOTTEN_AFTER."""
    session.execute(delete(Worker).where(Worker.seen_at < now() - literal(FORGOTTEN_AFTER, Interval())))


def live_workers(session: Session, *, heartbeat_seconds: float) -> list[WorkerStatus]:
    """Return the workers that are alive, the oldest first, with what they run.

    Args:
        session: An open transaction.
        heartbeat_seconds: How often workers report.
    """
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
            device_failed_at=worker.device_failed_at,
            memory_bytes=worker.memory_bytes,
        )
        for worker, kind, subject_id, progressed_at in found
    ]


def wake_ups_due(session: Session, lane: Lane, settings: Settings) -> int:
    """Return how many wake-ups a queue can use: one for each idle worker, as far as there are due jobs for them.

    While any is due, one more for each worker whose device failed: it looks again whether it can take jobs, and takes
    no wake-up from another.

    Args:
        session: An open transaction.
        lane: The queue that jobs of this kind wait in.
        settings: The settings of the installation.
    """
    holds = select(Job.id).where(Job.owner == Worker.owner, Job.state.in_(sorted(HELD)))
    failed = Worker.device_failed_at.is_not(None)
    idle, failing = session.execute(
        select(func.count().filter(~failed), func.count().filter(failed)).where(
            Worker.lane == lane, is_alive(settings.heartbeat_seconds), ~holds.exists()
        )
    ).one()
    if not idle + failing:
        return 0
    due = select(Job.id).where(is_due(lane), Job.workspace_id.not_in(at_limit(lane, settings.max_running_audits)))
    # One at least, for those that failed.
    found = session.scalar(select(func.count()).select_from(due.limit(max(idle, 1)).subquery())) or 0
    return min(found, idle) + failing if found else 0


def is_alive(heartbeat_seconds: float) -> ColumnElement[bool]:
    """The condition that a worker has been heard of lately; workers say so every `heartbeat_seconds`."""
    patience = timedelta(seconds=MISSED_BEATS * heartbeat_seconds)
    return Worker.seen_at > now() - literal(patience, Interval())
