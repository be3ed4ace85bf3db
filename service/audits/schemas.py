"""Audits as the API shows and takes them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract import Failure, Stage, Summary, TrainingConfig
from service.http.fields import Storable
from service.lifecycle.transitions import State

Id = Annotated[str, Field(min_length=1, max_length=100), Storable]


class AuditCreate(BaseModel):
    """What to audit, for which behaviour, with which model and training."""

    model_config = ConfigDict(extra="forbid")
    dataset_id: Id
    probe_ids: list[Id] = Field(min_length=1, max_length=1, description="One probe.")
    model_id: Id = Field(description="A model's id or name.")
    training: TrainingConfig = TrainingConfig()
    q: float = Field(default=0.05, gt=0, lt=1, description="Target false discovery rate of the flags.")
    group_column: Annotated[str, Field(max_length=1000), Storable] | None = Field(
        default=None, description="One of the dataset's extra columns: its value names each sample's group."
    )


class Progress(BaseModel):
    """How far the stage is, and when the whole step may end."""

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
    stage: Stage | None = Field(description="What a running audit is doing.")
    progress: Progress | None
    attempt: int
    created_at: datetime
    started_at: datetime | None = Field(description="When the last attempt started.")
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    dataset_id: str
    probe_ids: list[str]
    model_id: str
    training: TrainingConfig
    q: float
    group_column: str | None
    error: Failure | None


class Audit(AuditSummary):
    """An audit."""

    summary: Summary | None = Field(description="The answer in numbers, once it has succeeded.")


class AuditEvent(BaseModel):
    """Something that happened to an audit."""

    object: Literal["audit.event"] = "audit.event"
    seq: int = Field(description="1, 2, 3, ... within the audit.")
    created_at: datetime
    attempt: int
    level: Literal["info", "warning", "error"]
    type: str = Field(description="state, stage, metric or notice.")
    message: str
    data: dict[str, Any] | None
