"""Audits as the API shows and takes them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.contract.failure import Failure
from service.contract.protocol import Stage
from service.contract.results import Summary
from service.contract.spec import MAX_PROBES, MAX_SEEDS, TrainingConfig
from service.http.fields import Storable
from service.lifecycle.job_rows import Priority
from service.lifecycle.transitions import State
from service.workers.schemas import Waiting

Id = Annotated[str, Field(min_length=1, max_length=100), Storable]
Column = Annotated[str, Field(max_length=1000), Storable]


def _distinct(ids: list[str]) -> list[str]:
    if len(set(ids)) < len(ids):
        raise ValueError("name each probe once")
    return ids


class AuditCreate(BaseModel):
    """What to audit, for which behaviour, with which model and training."""

    model_config = ConfigDict(extra="forbid")
    dataset_id: Id
    probe_ids: Annotated[list[Id], AfterValidator(_distinct)] = Field(
        min_length=1, max_length=MAX_PROBES, description="The behaviours to look for, in one run."
    )
    model_id: Id = Field(description="A model's id or name.")
    training: TrainingConfig = TrainingConfig()
    seeds: int = Field(
        default=1, ge=1, le=MAX_SEEDS, description="Training runs: with training.seed and the numbers after it."
    )
    q: float = Field(default=0.05, gt=0, lt=1, description="Target false discovery rate of the flags.")
    group_column: Column | None = Field(
        default=None, description="One of the dataset's extra columns: its value names each sample's group."
    )
    trusted_column: Column | None = Field(
        default=None,
        description="One of the dataset's extra columns: true, 1 or yes for samples known to be clean, "
        "and else false, 0, no or empty.",
    )
    priority: Priority = Field(
        default="normal",
        description="Which of the workspace's own waiting audits go first. `high` needs the scope `admin`.",
    )


class Step(BaseModel):
    """One child run of an audit: training with one seed, or combining what the seeds recorded."""

    key: str = Field(description="`train:{seed}` or `combine`.")
    number: int = Field(description="1, 2, ... in the order in which they run.")
    of: int = Field(description="Steps of the audit.")


class Progress(BaseModel):
    """How far the stage of the step under way is, and when training with all seeds may end."""

    done: int
    total: int | None
    unit: str
    eta: datetime | None
    eta_seconds: float | None = Field(description="From now, by the database's clock.")


class AuditSummary(BaseModel):
    """An audit as lists show it: without its summary."""

    object: Literal["audit"] = "audit"
    id: str
    status: State
    step: Step | None = Field(description="Which of its steps a running audit is at.")
    stage: Stage | None = Field(description="What a running audit is doing in that step.")
    progress: Progress | None
    attempt: int
    created_at: datetime
    key_id: str | None = Field(description="The key that asked for it; null for a person, and in older audits.")
    user_id: str | None = Field(description="The person who asked for it; null for a key.")
    started_at: datetime | None = Field(description="When the last attempt started.")
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    dataset_id: str
    probe_ids: list[str]
    model_id: str
    training: TrainingConfig
    seeds: int
    q: float
    group_column: str | None
    trusted_column: str | None
    priority: Priority = Field(description="Among the workspace's own waiting audits; workspaces take turns.")
    waiting: Waiting | None = Field(description="Of a queued audit: its place in the queue, and why it waits.")
    error: Failure | None


class Audit(AuditSummary):
    """An audit."""

    summary: Summary | None = Field(description="The answer in numbers, once it has succeeded.")


class AuditsCancel(BaseModel):
    """Which audits to cancel."""

    model_config = ConfigDict(extra="forbid")
    status: Literal["queued", "running"] = Field(
        default="queued", description="Only those in this state. Running ones stop as soon as their worker has heard."
    )
    created_by: Id | None = Field(
        default=None, description="Only those of this key or person, by id, or `me`. Null: everybody's."
    )


class AuditsCancelled(BaseModel):
    """Which audits were cancelled, or told to stop."""

    object: Literal["audits.cancelled"] = "audits.cancelled"
    audit_ids: list[str] = Field(description="The oldest first, 500 at most.")
    has_more: bool = Field(description="There may be more: send the request again.")


class AuditEvent(BaseModel):
    """Something that happened to an audit."""

    object: Literal["audit.event"] = "audit.event"
    seq: int = Field(description="1, 2, 3, ... within the audit.")
    created_at: datetime
    attempt: int
    level: Literal["info", "warning", "error"]
    type: str = Field(description="state, step, stage, metric or notice.")
    message: str
    data: dict[str, Any] | None
