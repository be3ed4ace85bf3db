"""`python -m worker.health [QUEUE] [--liveness]`: whether this host's workers make progress. 0, or 1 with the reason.

With --liveness, what no restart of the worker would mend is well: a database that does not answer.

A worker that answers a ping may still be deaf to its broker or stuck in a run. What counts is in the database: the
heartbeat, the progress of what it runs, its device, and that no due job waits beside a worker that has nothing to do.
"""

import socket
import sys
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.lifecycle.transitions import State
from service.lifecycle.workers import WorkerStatus, live_workers
from service.settings import LANES, Settings, settings_or_exit
from service.store.database_errors import cause_of
from service.store.engine import make_engine, make_sessions
from service.store.tables import Job

LIVENESS = "--liveness"
"""The argument that asks only whether the process has to be started again."""

STUCK_AFTER = timedelta(minutes=30)
"""Longer than fetching a model of 8 billion parameters takes, in which an audit or export shows no progress."""

DEAF_AFTER = timedelta(minutes=2)
"""Idle workers look for due jobs every second."""


def main(arguments: list[str], settings: Settings) -> int:
    """Print how this host's workers are.

    Args:
        arguments: What was given on the command line: a queue, LIVENESS, both or neither.
        settings: The settings of the installation.

    Returns:
        Exit code: 0, 2 for a wrong call or setting, 1 where a worker does not do its work.
    """
    lanes = [argument for argument in arguments if argument != LIVENESS]
    if len(lanes) > 1 or not set(lanes) <= set(LANES):
        print(f"usage: python -m worker.health [{'|'.join(LANES)}] [{LIVENESS}]")  # noqa: T201
        return 2
    if settings.database_url is None:
        print("set FINETOOTH_DATABASE_URL, as for the worker")  # noqa: T201
        return 2
    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=1,
        statement_timeout_ms=5000,
        pooler=settings.database_pooler,
        application_name="health",
    )
    try:
        with make_sessions(engine)() as session:
            complaint = complaint_of(
                session,
                host=socket.gethostname(),
                lanes=lanes or LANES,
                heartbeat_seconds=settings.heartbeat_seconds,
            )
    except SQLAlchemyError as error:
        complaint = f"the database does not answer ({cause_of(error)})"
        if LIVENESS in arguments:
            print(complaint)  # noqa: T201
            return 0
    finally:
        engine.dispose()
    print(complaint or "ok")  # noqa: T201
    return 0 if complaint is None else 1


def complaint_of(
    session: Session, *, host: str, lanes: list[str] | tuple[str, ...], heartbeat_seconds: float
) -> str | None:
    """Return what is wrong with a host's workers; None if they make progress.

    Args:
        session: An open transaction.
        host: Name of the host.
        lanes: The queues whose workers are meant.
        heartbeat_seconds: How often workers report.
    """
    mine = [
        worker
        for worker in live_workers(session, heartbeat_seconds=heartbeat_seconds)
        if worker.host == host and worker.lane in lanes
    ]
    if not mine:
        return f"no worker of this host ({host}) has been heard of"
    now = session.scalars(select(func.statement_timestamp())).one()
    for worker in mine:
        complaint = _stuck(worker, now) or _failed(worker) or _deaf(session, worker, now)
        if complaint is not None:
            return complaint
    return None


def _stuck(worker: WorkerStatus, now: datetime) -> str | None:
    if worker.subject_id is None or worker.progressed_at is None or now - worker.progressed_at < STUCK_AFTER:
        return None
    return f"{worker.kind} {worker.subject_id} has made no progress since {worker.progressed_at:%F %T}"


def _failed(worker: WorkerStatus) -> str | None:
    if worker.device_failed_at is None:
        return None
    return f"worker {worker.owner} takes no jobs: its device failed at {worker.device_failed_at:%F %T}"


def _deaf(session: Session, worker: WorkerStatus, now: datetime) -> str | None:
    if worker.subject_id is not None or now - worker.started_at < DEAF_AFTER:
        return None
    waiting = session.scalar(
        select(func.count()).where(
            Job.lane == worker.lane, Job.state == State.QUEUED, Job.next_attempt_at < now - DEAF_AFTER
        )
    )
    # One that has just ended its audit takes the next one within seconds.
    recently = session.scalar(select(func.max(Job.finished_at)).where(Job.owner == worker.owner))
    if not waiting or (recently is not None and now - recently < DEAF_AFTER):
        return None
    return f"{waiting} jobs wait, and worker {worker.owner} takes none"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], settings_or_exit()))
