"""Reading which workers there are and what waits for them.

Of other workspaces' jobs nothing is read but how many there are.
"""

import hashlib

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.lifecycle.job_rows import now, priority_of
from service.lifecycle.transitions import HELD, State
from service.lifecycle.turns import SERVING_ORDER
from service.lifecycle.workers import is_alive
from service.principal import Principal
from service.scoping import scoped
from service.settings import LANES, Lane, Settings
from service.store.tables import Audit, Export, Job
from service.store.tables import Worker as WorkerTable
from service.workers.schemas import HeldJob, JobQueue, Queue, QueuedJob, Worker
from service.workers.waiting import read_waiting

JOBS_SHOWN = 100
"""Waiting jobs of a queue that are listed; the rest is counted."""


def list_workers(session: Session, principal: Principal, *, heartbeat_seconds: float) -> list[Worker]:
    """Read all workers that were heard of within a day, those of each queue together, the oldest first.

    Args:
        session: An open transaction.
        principal: Who is asking: host and pid are for admins of the installation, a job for its workspace.
        heartbeat_seconds: How often workers say that they are alive.
    """
    found = session.execute(
        select(
            WorkerTable,
            is_alive(heartbeat_seconds),
            Job,
            func.coalesce(Audit.progressed_at, Export.progressed_at),
        )
        .outerjoin(Job, (Job.owner == WorkerTable.owner) & Job.state.in_(sorted(HELD)))
        .outerjoin(Audit, Audit.job_id == Job.id)
        .outerjoin(Export, Export.job_id == Job.id)
        .order_by(WorkerTable.lane, WorkerTable.started_at, WorkerTable.owner)
    )
    open_about_hosts = principal.administers_installation
    return [
        Worker(
            id=worker_id(worker.owner),
            queue=worker.lane,
            host=worker.host if open_about_hosts else None,
            pid=worker.pid if open_about_hosts else None,
            started_at=worker.started_at,
            seen_at=worker.seen_at,
            alive=alive,
            device=worker.device,
            memory_bytes=worker.memory_bytes,
            memory_used_bytes=worker.memory_used_bytes,
            device_failed_at=worker.device_failed_at,
            busy=job is not None,
            job=None
            if job is None or job.workspace_id != principal.workspace_id
            else HeldJob(
                kind=job.kind,
                subject_id=job.subject_id,
                status=State(job.state),
                attempt=job.attempt,
                started_at=job.started_at,
                progressed_at=progressed_at,
            ),
        )
        for worker, alive, job, progressed_at in found
    ]


def worker_id(owner: str) -> str:
    """Name a worker without its host, which its own name begins with."""
    return f"wrk_{hashlib.sha256(owner.encode()).hexdigest()[:12]}"


def read_queue(session: Session, principal: Principal, settings: Settings) -> Queue:
    """Read what waits in each queue: the workspace's own jobs, and how many others there are.

    Args:
        session: An open transaction.
        principal: Who is asking.
        settings: Hold the limit of running audits, and how often workers say that they are alive.
    """
    return Queue(queues=[_read_queue(session, principal, lane, settings) for lane in LANES])


def _read_queue(session: Session, principal: Principal, lane: Lane, settings: Settings) -> JobQueue:
    mine, queued = Job.workspace_id == principal.workspace_id, Job.state == State.QUEUED
    running, running_elsewhere, waiting, waiting_elsewhere = session.execute(
        select(
            func.count().filter(mine, ~queued),
            func.count().filter(~mine, ~queued),
            func.count().filter(mine, queued),
            func.count().filter(~mine, queued),
        ).where(Job.lane == lane, Job.state.in_(sorted({State.QUEUED, *HELD})))
    ).one()
    holds = select(Job.id).where(Job.owner == WorkerTable.owner, Job.state.in_(sorted(HELD))).exists()
    alive, idle = session.execute(
        select(func.count(), func.count().filter(~holds, WorkerTable.device_failed_at.is_(None))).where(
            WorkerTable.lane == lane, is_alive(settings.heartbeat_seconds)
        )
    ).one()
    return JobQueue(
        queue=lane,
        workers=alive,
        idle=idle,
        running=running,
        running_elsewhere=running_elsewhere,
        queued=waiting,
        queued_elsewhere=waiting_elsewhere,
        jobs=_queued_jobs(session, principal, lane, settings),
    )


def _queued_jobs(session: Session, principal: Principal, lane: Lane, settings: Settings) -> list[QueuedJob]:
    due = Job.next_attempt_at <= now()
    jobs = session.scalars(
        scoped(Job, principal)
        .where(Job.lane == lane, Job.state == State.QUEUED)
        .order_by(~due, *SERVING_ORDER)
        .limit(JOBS_SHOWN)
    ).all()
    waiting = read_waiting(session, lane, [job.id for job in jobs], settings)
    return [
        QueuedJob(
            **dict(waiting[job.id]),
            kind=job.kind,
            subject_id=job.subject_id,
            priority=priority_of(job),
            attempt=job.attempt,
            created_at=job.created_at,
            due_at=job.next_attempt_at,
        )
        for job in jobs
    ]
