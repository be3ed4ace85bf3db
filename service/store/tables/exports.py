"""Exports of datasets and findings."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base, created_at
from service.store.tables.job_subject import JobSubject


class Export(JobSubject, Base):
    """A file made of an audit's samples or scores. Its content is an object under the published attempt."""

    __tablename__ = "exports"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    job_id: Mapped[str] = mapped_column(unique=True)
    audit_id: Mapped[str]
    kind: Mapped[str]
    """cleaned, flagged or scores."""
    format: Mapped[str]
    """jsonl, csv or parquet."""
    filter: Mapped[str | None]
    """Which samples `cleaned` leaves out and `flagged` holds; null for scores, which are those of every sample."""
    max_q: Mapped[float | None]
    created_at: Mapped[datetime] = created_at()
    published_attempt: Mapped[int | None]
    """Readers see this attempt's object only."""
    rows: Mapped[int | None] = mapped_column(BigInteger)
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None]
    rows_truncated: Mapped[int | None] = mapped_column(BigInteger)
    """How many samples of a cleaned file were not measured to their end; None for other kinds and older audits."""
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "job_id"], ["jobs.workspace_id", "jobs.id"]),
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audits.workspace_id", "audits.id"]),
        UniqueConstraint("workspace_id", "id"),
        # Whoever deletes an audit looks for exports of it.
        Index("ix_exports_audit", "workspace_id", "audit_id"),
        CheckConstraint("kind IN ('cleaned','flagged','scores')", name="kind"),
        CheckConstraint("format IN ('jsonl','csv','parquet')", name="format"),
        CheckConstraint("filter IN ('flagged','confirmed','not_rejected')", name="filter"),
        CheckConstraint("(kind = 'scores') = (filter IS NULL)", name="filtered"),
        CheckConstraint("max_q > 0 AND max_q < 1", name="max_q"),
        CheckConstraint("num_nulls(published_attempt, rows, bytes, sha256) IN (0, 4)", name="published"),
    )
