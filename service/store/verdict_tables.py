"""Tables of the review: what people said of an audit's samples, and everything they said before."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    Integer,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base

KINDS = "verdict IN ('confirmed','rejected','unsure')"


class Verdict(Base):
    """What is said of one sample of an audit now. One that was withdrawn stays, without a verdict."""

    __tablename__ = "verdicts"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    workspace_id: Mapped[str]
    verdict: Mapped[str | None]
    """confirmed, rejected or unsure; None: withdrawn."""
    note: Mapped[str | None]
    key_id: Mapped[str | None]
    """Who said so last: a key, or a person. No foreign keys: what was said outlives both."""
    user_id: Mapped[str | None]
    decided_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revision: Mapped[int] = mapped_column(Integer)
    """1, 2, 3, ...: raised by every change, also by withdrawing."""
    rank: Mapped[int] = mapped_column(BigInteger)
    """In the headline. Kept here, since a published result never changes: precision at k reads this table alone."""
    flagged: Mapped[bool] = mapped_column(Boolean)
    """In the headline."""
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audit_data.workspace_id", "audit_data.audit_id"]),
        CheckConstraint(KINDS, name="verdict"),
        CheckConstraint("num_nonnulls(key_id, user_id) = 1", name="said_by"),
        CheckConstraint("revision >= 0", name="revision"),
        # Precision at k, and the samples of one verdict.
        Index("ix_verdicts_verdict", "audit_id", "verdict", "rank", postgresql_where=text("verdict IS NOT NULL")),
        # The list in the order of the review.
        Index("ix_verdicts_decided", "audit_id", "decided_at", "row", postgresql_where=text("verdict IS NOT NULL")),
    )


class VerdictChange(Base):
    """One thing that was said of a sample, in order. Only added to."""

    __tablename__ = "verdict_changes"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    workspace_id: Mapped[str]
    verdict: Mapped[str | None]
    """None: withdrawn."""
    note: Mapped[str | None]
    key_id: Mapped[str | None]
    user_id: Mapped[str | None]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        ForeignKeyConstraint(["audit_id", "row"], ["verdicts.audit_id", "verdicts.row"]),
        CheckConstraint(KINDS, name="verdict"),
        CheckConstraint("num_nonnulls(key_id, user_id) = 1", name="said_by"),
    )
