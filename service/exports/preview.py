"""Counts what an export would hold, before it is created."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.lifecycle.exports import Filter
from service.store.flagging import flagged_at
from service.store.score_lists import PublishedAudit
from service.store.tables import Audit, Score
from service.store.verdict_tables import Verdict


@dataclass(frozen=True)
class Preview:
    """Numbers of an audit's samples, by what a filter selects."""

    rows: int
    """Samples of the dataset."""
    flagged: int
    flagged_rejected: int
    """Flagged samples that people have rejected."""
    confirmed: int
    confirmed_unflagged: int
    """Samples that people have confirmed although they are not flagged."""

    def selected(self, filter: Filter) -> int:
        """Return the number of samples that a cleaned file would leave out, and a file of flagged ones would hold."""
        match filter:
            case "flagged":
                return self.flagged
            case "confirmed":
                return self.confirmed
            case "not_rejected":
                return self.flagged - self.flagged_rejected + self.confirmed_unflagged


def preview(session: Session, audit: PublishedAudit, max_q: float | None) -> Preview:
    """Count what an export would select if it were created now.

    Args:
        session: An open transaction.
        audit: The published audit.
        max_q: Replaces the audit's q; None keeps it.

    Returns:
        The numbers of samples.
    """
    flag = flagged_at(max_q)
    mine = Score.list_id == audit.headline
    rows = session.scalars(select(Audit.summary["rows"].as_integer()).where(Audit.id == audit.id)).one()
    flagged = session.scalars(select(func.count()).select_from(Score).where(mine, flag)).one()
    # Join from the few judged samples to their scores, instead of reading all scores.
    rejected, confirmed = Verdict.verdict == "rejected", Verdict.verdict == "confirmed"
    judged = (
        select(
            func.count().filter(rejected, flag), func.count().filter(confirmed), func.count().filter(confirmed, flag)
        )
        .select_from(Verdict)
        .join(Score, (Score.row == Verdict.row) & mine)
        .where(Verdict.audit_id == audit.id, Verdict.verdict.in_(("confirmed", "rejected")))
    )
    flagged_rejected, confirmed_all, confirmed_flagged = session.execute(judged).one()
    return Preview(rows, flagged, flagged_rejected, confirmed_all, confirmed_all - confirmed_flagged)
