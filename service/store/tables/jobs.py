"""Jobs, the workers that run them, and what is counted and cleared away beside them."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base, created_at


class Job(Base):
    """A background act. The row is the job; Celery only wakes a worker. Only service.lifecycle writes it."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    kind: Mapped[str]
    """What the subject is: an audit to run, an export to write, a dataset whose near-duplicates are counted, or with
    `version` one that is compared with the version before it."""
    subject_id: Mapped[str]
    lane: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="queued")
    attempt: Mapped[int] = mapped_column(server_default="0")
    """The fence: raised by every claim; every write of a worker names it."""
    owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    """While a worker holds the job: from then on it does not, and the reconciler takes the job back."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """Attempts that ended badly; the last one allowed ends the job."""
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    """0 before 1 before 2, among the workspace's own jobs of the lane: an audit's `high`, `normal` and `low`."""
    created_at: Mapped[datetime] = created_at()
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    """When the running attempt started, or the last one."""
    cancel_requested_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    """A contract.Failure where state is failed."""
    request_id: Mapped[str | None]
    """Id of the request that asked for the job, for the logs."""
    __table_args__ = (
        CheckConstraint("kind IN ('audit','export','dataset','version')", name="kind"),
        CheckConstraint("lane IN ('gpu','io')", name="lane"),
        CheckConstraint("state IN ('queued','running','cancelling','succeeded','failed','cancelled')", name="state"),
        CheckConstraint("(state IN ('succeeded','failed','cancelled')) = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("(state IN ('running','cancelling')) = (lease_expires_at IS NOT NULL)", name="lease"),
        CheckConstraint("priority IN (0, 1, 2)", name="priority"),
        UniqueConstraint("workspace_id", "id"),
        # A workspace's next job is the first entry under (lane, workspace).
        Index(
            "ix_jobs_queued",
            "lane",
            "workspace_id",
            "priority",
            "next_attempt_at",
            "id",
            postgresql_where=text("state = 'queued'"),
        ),
        # The newest that succeeded say how long a job takes.
        Index("ix_jobs_succeeded", "lane", "finished_at", postgresql_where=text("state = 'succeeded'")),
        Index("ix_jobs_lease", "lease_expires_at", postgresql_where=text("lease_expires_at IS NOT NULL")),
        Index("ix_jobs_subject", "subject_id"),
    )


class Turn(Base):
    """When a workspace was last served in a lane. Kept beside the jobs, as those of deleted audits are gone."""

    __tablename__ = "turns"
    lane: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    served_at: Mapped[datetime]
    """When a worker last took one of its jobs."""
    __table_args__ = (CheckConstraint("lane IN ('gpu','io')", name="lane"),)


class Worker(Base):
    """A worker process that says from time to time that it is alive. What it holds is in `jobs`."""

    __tablename__ = "workers"
    owner: Mapped[str] = mapped_column(primary_key=True)
    """The name under which `jobs.owner` knows it; a worker that was started again has another."""
    lane: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[datetime] = created_at()
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    device: Mapped[str | None]
    """What it trains on, such as NVIDIA H200 or cpu; None: it does not train, or the device could not be read."""
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Memory of the worker's device; None: it has no device, or has not said."""
    memory_used_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Memory of the device that is in use, by whatever process, at `seen_at`."""
    device_failed_at: Mapped[datetime | None]
    """Since when the worker takes no jobs, because its device failed and has passed no check since."""
    __table_args__ = (CheckConstraint("lane IN ('gpu','io')", name="lane"),)


class Counter(Base):
    """What workers have counted for /metrics; see service.store.counters."""

    __tablename__ = "counters"
    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]


class Scheduler(Base):
    """Which process reconciles: one row, a lease that passes to another process once its holder is gone."""

    __tablename__ = "scheduler"
    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    owner: Mapped[str]
    lease_expires_at: Mapped[datetime]
    __table_args__ = (CheckConstraint("id = 1", name="one"),)


class ObjectPurge(Base):
    """Objects that no row names any more, to be deleted. See service.lifecycle.purging."""

    __tablename__ = "object_purges"
    prefix: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    created_at: Mapped[datetime] = created_at()
    due_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    """When it is tried, or tried again."""
