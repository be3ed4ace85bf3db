"""The ranked lists of an audit's attempts: made while its scores are loaded, found by whoever reads them."""

from dataclasses import dataclass

from sqlalchemy import ScalarSelect, func, insert, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from service.store.tables import Audit, ScoreList

HEADLINE = 0
"""probe_no of the list over all probes."""


@dataclass(frozen=True)
class PublishedAudit:
    """An audit whose results are public: what its scores and texts are found by."""

    id: str
    workspace_id: str
    dataset_id: str
    attempt: int
    lists: tuple[int, ...]
    """The number of each list, by probe_no."""

    @property
    def headline(self) -> int:
        """The number of the list over all probes."""
        return self.lists[HEADLINE]

    @property
    def probes(self) -> int:
        """How many the audit has. With one alone, the headline is its list."""
        return max(1, len(self.lists) - 1)


def add_lists(session: Session, *, audit_id: str, attempt: int, probes: int) -> list[int]:
    """Create the score lists of an attempt: the headline's, and with several probes one for each.

    Args:
        session: An open transaction.
        audit_id: Id of the audit.
        attempt: Number of the attempt, from 1.
        probes: How many probes the audit has.

    Returns:
        The lists' numbers, by probe_no.
    """
    numbers = range(probes + 1) if probes > 1 else range(1)
    rows = [{"audit_id": audit_id, "attempt": attempt, "probe_no": number} for number in numbers]
    found = session.execute(insert(ScoreList).returning(ScoreList.probe_no, ScoreList.id), rows)
    return [number for _, number in sorted((probe_no, number) for probe_no, number in found)]


def published_lists() -> ScalarSelect[list[int]]:
    """Select an audit's published lists by probe_no, for a statement that selects from `audits`; null: it has none."""
    return (
        select(func.array_agg(aggregate_order_by(ScoreList.id, ScoreList.probe_no)))
        .where(ScoreList.audit_id == Audit.id, ScoreList.attempt == Audit.published_attempt)
        .correlate(Audit)
        .scalar_subquery()
    )


def find_headline(session: Session, audit: Audit) -> int:
    """Return the number of an audit's headline list.

    Args:
        session: An open transaction.
        audit: An audit that has succeeded.
    """
    return session.scalars(
        select(ScoreList.id).where(
            ScoreList.audit_id == audit.id,
            ScoreList.attempt == audit.published_attempt,
            ScoreList.probe_no == HEADLINE,
        )
    ).one()
