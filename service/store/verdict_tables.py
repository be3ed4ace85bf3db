"""Tables of the review: what people said of an audit's samples, and everything they said before."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base, created_at

KINDS = "verdict IN ('confirmed','rejected','unsure')"
"""Condition that the column holds what a person may say about a sample."""

OUTCOMES = "IN ('confirmed','rejected','unsure','disputed')"
"""The same for what the opinions on a sample come to, behind the name of a column."""


ONE_ACTOR = "num_nonnulls(key_id, user_id) = 1"
"""Condition that either a key or a person did it."""


class ByActor:
    """Who did it: a key or a person, one of both. No foreign keys: what was said outlives them."""

    key_id: Mapped[str | None]
    user_id: Mapped[str | None]

    @property
    def actor_id(self) -> str:
        """The id of the key or the person."""
        return self.key_id or self.user_id or ""


class Verdict(ByActor, Base):
    """What counts of one sample of an audit now. One that was withdrawn stays, without a verdict."""

    __tablename__ = "verdicts"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    workspace_id: Mapped[str]
    verdict: Mapped[str | None]
    """confirmed, rejected or unsure; disputed: reviewers differ; None: withdrawn."""
    settled_by: Mapped[str | None]
    """Whose opinion counts where others differ."""
    note: Mapped[str | None]
    """Like who said so and when, of the opinion that settles, else of the newest one."""
    decided_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revision: Mapped[int] = mapped_column(Integer)
    """1, 2, 3, ...: raised by every change, also by withdrawing."""
    rank: Mapped[int] = mapped_column(BigInteger)
    """In the headline. Kept here, since a published result never changes: precision at k reads this table alone."""
    flagged: Mapped[bool] = mapped_column(Boolean)
    """Whether the sample was flagged by the audit's headline."""
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audit_data.workspace_id", "audit_data.audit_id"]),
        CheckConstraint(f"verdict {OUTCOMES}", name="verdict"),
        CheckConstraint(ONE_ACTOR, name="said_by"),
        CheckConstraint("revision >= 0", name="revision"),
        # Precision at k, and the samples of one verdict.
        Index("ix_verdicts_verdict", "audit_id", "verdict", "rank", postgresql_where=text("verdict IS NOT NULL")),
        # The list in the order of the review.
        Index("ix_verdicts_decided", "audit_id", "decided_at", "row", postgresql_where=text("verdict IS NOT NULL")),
    )


class VerdictBulk(ByActor, Base):
    """One verdict on many samples at once, which can be undone as a whole."""

    __tablename__ = "verdict_bulks"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str]
    audit_id: Mapped[str]
    verdict: Mapped[str | None]
    """None: verdicts were withdrawn."""
    note: Mapped[str | None]
    filter: Mapped[dict[str, Any]]
    """Which samples were meant: what was given of a findings.Filter."""
    count: Mapped[int] = mapped_column(BigInteger)
    """Samples that the filter kept."""
    changed: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = created_at()
    undone_at: Mapped[datetime | None]
    undone_by: Mapped[str | None]
    """Id of the key or the person."""
    restored: Mapped[int | None] = mapped_column(BigInteger)
    """Samples that undoing it has given back what was said before."""
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audit_data.workspace_id", "audit_data.audit_id"]),
        CheckConstraint(KINDS, name="verdict"),
        CheckConstraint(ONE_ACTOR, name="said_by"),
        CheckConstraint("(undone_at IS NULL) = (restored IS NULL)", name="undone"),
        # The audit's newest.
        Index("ix_verdict_bulks_audit", "audit_id", "id"),
    )


class VerdictChange(ByActor, Base):
    """One thing that was said of a sample, in order. Only added to."""

    __tablename__ = "verdict_changes"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    workspace_id: Mapped[str]
    verdict: Mapped[str | None]
    """What its reviewer says from then on. None: withdrawn."""
    note: Mapped[str | None]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    outcome: Mapped[str | None]
    """What counts of the sample from then on, as `verdicts.verdict`."""
    settled_by: Mapped[str | None]
    """As `verdicts.settled_by`."""
    replaces: Mapped[int | None] = mapped_column(Integer)
    """The revision of what its reviewer said until then; None: nothing."""
    bulk_id: Mapped[str | None] = mapped_column(ForeignKey("verdict_bulks.id"))
    """The bulk that it was a part of, or that it undid."""
    restores: Mapped[int | None] = mapped_column(Integer)
    """It undid a bulk, and all is as at this revision again (0: nothing was said)."""
    __table_args__ = (
        ForeignKeyConstraint(["audit_id", "row"], ["verdicts.audit_id", "verdicts.row"]),
        CheckConstraint(KINDS, name="verdict"),
        CheckConstraint(ONE_ACTOR, name="said_by"),
        CheckConstraint(f"outcome {OUTCOMES}", name="outcome"),
        CheckConstraint("restores IS NULL OR bulk_id IS NOT NULL", name="restores"),
        Index("ix_verdict_changes_bulk", "bulk_id", "row", postgresql_where=text("bulk_id IS NOT NULL")),
    )


class Opinion(Base):
    """What one reviewer says of a sample now: a VerdictChange that still stands."""

    __tablename__ = "opinions"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    reviewer_id: Mapped[str] = mapped_column(primary_key=True)
    """Id of the key or the person."""
    revision: Mapped[int] = mapped_column(Integer)
    """Revision of the change that said it."""
    verdict: Mapped[str]
    __table_args__ = (
        ForeignKeyConstraint(
            ["audit_id", "row", "revision"],
            ["verdict_changes.audit_id", "verdict_changes.row", "verdict_changes.revision"],
            name="fk_opinions_verdict_changes",
        ),
        CheckConstraint(KINDS, name="verdict"),
        # The samples of one reviewer.
        Index("ix_opinions_reviewer", "audit_id", "reviewer_id", "row"),
    )


class SavedView(ByActor, Base):
    """A list of findings under a name, for every audit of the workspace."""

    __tablename__ = "saved_views"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str]
    query: Mapped[str]
    """Filters, order and columns, as the query of an address."""
    created_at: Mapped[datetime] = created_at()
    __table_args__ = (UniqueConstraint("workspace_id", "name"), CheckConstraint(ONE_ACTOR, name="saved_by"))
