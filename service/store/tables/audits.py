"""Audits with their probes, steps and events."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base, created_at
from service.store.tables.job_subject import JobSubject


class AuditData(Base):
    """Stands for what belongs to an audit and may be large: scores, findings, verdicts.

    They refer to this row and not to the audit's, so that a deleted audit is gone at once, and what it leaves is
    deleted later, none of it forgotten.
    """

    __tablename__ = "audit_data"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    purge_at: Mapped[datetime | None]
    """When its data may be deleted, because the audit is deleted; this row goes last. See service.lifecycle.purging."""
    __table_args__ = (
        UniqueConstraint("workspace_id", "audit_id"),
        Index("ix_audit_data_purge", "purge_at", postgresql_where=text("purge_at IS NOT NULL")),
    )


class Audit(JobSubject, Base):
    """One audit: what was asked, how far it is, which attempt's results are public."""

    __tablename__ = "audits"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    job_id: Mapped[str] = mapped_column(unique=True)
    """The newest: a retry is another job."""
    dataset_id: Mapped[str]
    model_id: Mapped[str]
    training: Mapped[dict[str, Any]]
    """A contract.TrainingConfig; its seed is the first step's."""
    seeds: Mapped[int] = mapped_column(SmallInteger)
    """Training runs: one with training.seed, one with the next number, ..."""
    q: Mapped[float]
    group_column: Mapped[str | None]
    trusted_column: Mapped[str | None]
    created_at: Mapped[datetime] = created_at()
    step_key: Mapped[str | None]
    """The step under way, while running."""
    stage: Mapped[str | None]
    """A contract.Stage, while running."""
    published_attempt: Mapped[int | None]
    """Readers of scores, findings and summary see this attempt only."""
    summary: Mapped[dict[str, Any] | None]
    """A contract.Summary of the published attempt."""
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "id"], ["audit_data.workspace_id", "audit_data.audit_id"]),
        ForeignKeyConstraint(["workspace_id", "job_id"], ["jobs.workspace_id", "jobs.id"]),
        ForeignKeyConstraint(["workspace_id", "dataset_id"], ["datasets.workspace_id", "datasets.id"]),
        ForeignKeyConstraint(["workspace_id", "model_id"], ["models.workspace_id", "models.id"]),
        UniqueConstraint("workspace_id", "id"),
        CheckConstraint("q > 0 AND q < 1", name="q"),
        CheckConstraint("seeds >= 1", name="seeds"),
    )


class AuditProbe(Base):
    """One of the behaviours that an audit looks for."""

    __tablename__ = "audit_probes"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    probe_no: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    """1, 2, ... in the order asked for."""
    workspace_id: Mapped[str]
    probe_id: Mapped[str]
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audits.workspace_id", "audits.id"]),
        ForeignKeyConstraint(["workspace_id", "probe_id"], ["probes.workspace_id", "probes.id"]),
        UniqueConstraint("audit_id", "probe_id"),
        # Whoever deletes a probe looks for audits on it.
        Index("ix_audit_probes_probe", "workspace_id", "probe_id"),
    )


class AuditStep(Base):
    """One child run of an audit; its spec is hashed so that a finished step can be recognised."""

    __tablename__ = "audit_steps"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    step_key: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str]
    step_no: Mapped[int] = mapped_column(SmallInteger)
    """1, 2, ... in the order in which they run."""
    spec_sha256: Mapped[str | None]
    """SHA-256 of the step's specification (`spec_sha256`); set when the step starts."""
    state: Mapped[str] = mapped_column(server_default="pending")
    attempt: Mapped[int | None]
    """That ran it last; its output files lie under it."""
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Size of its output files in the object store; None: it has not succeeded, or had before this was counted."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audits.workspace_id", "audits.id"]),
        CheckConstraint("state IN ('pending','running','succeeded','failed')", name="state"),
    )


class AuditEvent(Base):
    """What happened to an audit, in order; never a sample's text."""

    __tablename__ = "audit_events"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    """1, 2, 3, ... within the audit."""
    workspace_id: Mapped[str]
    attempt: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    level: Mapped[str]
    type: Mapped[str]
    """state, step, stage, metric or notice."""
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audits.workspace_id", "audits.id"]),
        CheckConstraint("level IN ('info','warning','error')", name="level"),
    )
