"""Workers and queues as the API shows them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from service.lifecycle.job_rows import Priority
from service.lifecycle.transitions import State
from service.settings import Lane

Kind = Literal["audit", "export", "dataset", "version"]


class HeldJob(BaseModel):
    """A job of the workspace that a worker holds."""

    kind: Kind
    subject_id: str = Field(
        description="The id of the audit, the export, or the dataset whose duplicates are counted (`dataset`) or which "
        "is compared with the version before it (`version`)."
    )
    status: State
    attempt: int
    started_at: datetime | None = Field(description="When the worker took it.")
    progressed_at: datetime | None = Field(description="When it last moved on.")


class Worker(BaseModel):
    """A process that runs jobs. One that was killed stays for a day."""

    object: Literal["worker"] = "worker"
    id: str
    queue: Lane = Field(description="The queue of which it takes jobs: gpu or io.")
    host: str | None = Field(description="Null unless you administer the installation.")
    pid: int | None = Field(description="Null unless you administer the installation.")
    started_at: datetime
    seen_at: datetime = Field(description="Its last sign of life.")
    alive: bool = Field(description="Whether that was so lately that it can be counted on.")
    device: str | None = Field(description="What it trains on; null: it does not, or the device could not be read.")
    memory_bytes: int | None = Field(description="Of the device.")
    memory_used_bytes: int | None = Field(description="Of the device, at the last sign of life.")
    device_failed_at: datetime | None = Field(
        description="Since when the worker takes no jobs, because its device failed and has passed no check since."
    )
    busy: bool = Field(description="Whether it holds a job, of whatever workspace.")
    job: HeldJob | None = Field(description="The job, where it is the workspace's own.")


class Waiting(BaseModel):
    """Where a job stands in the queue."""

    position: int | None = Field(
        description="1: of all jobs of the queue, every workspace's, it is the next one, if nothing changes. Null: it "
        "cannot be told."
    )
    expected_start_at: datetime | None = Field(
        description="From how long the newest jobs took and how far those that run are. Null: it cannot be told, or a "
        "worker is idle."
    )
    reason: str = Field(description="Why it does not run yet, and what it waits for.")


class QueuedJob(Waiting):
    """A job of the workspace that waits."""

    kind: Kind
    subject_id: str = Field(
        description="The id of the audit, the export, or the dataset whose duplicates are counted (`dataset`) or which "
        "is compared with the version before it (`version`)."
    )
    priority: Priority = Field(description="Among the workspace's own jobs of the queue.")
    attempt: int = Field(description="How often it has been tried.")
    created_at: datetime
    due_at: datetime = Field(description="Before that it is not taken: after a failure, jobs wait a while.")


class JobQueue(BaseModel):
    """The queue of one kind of worker."""

    queue: Lane = Field(description="gpu: audits. io: exports, and the counting of near-duplicates.")
    workers: int = Field(description="Workers that are alive.")
    idle: int = Field(description="Workers that are alive, hold no job and could take one.")
    running: int = Field(description="Jobs of the workspace that workers hold.")
    running_elsewhere: int = Field(description="Jobs of other workspaces that workers hold.")
    queued: int = Field(description="Jobs of the workspace that wait.")
    queued_elsewhere: int = Field(description="Jobs of other workspaces that wait.")
    jobs: list[QueuedJob] = Field(description="The first 100 that wait, in the order in which they are taken.")


class Queue(BaseModel):
    """What waits for workers. Workspaces take turns."""

    object: Literal["queue"] = "queue"
    queues: list[JobQueue]
