"""Selects the samples that an export is about: those that `cleaned` leaves out and `flagged` holds."""

from datetime import datetime

from sqlalchemy import ColumnExpressionArgument, and_, or_, select

from service.lifecycle.exports import Filter
from service.store.flagging import flagged_at
from service.store.tables import Score
from service.store.verdict_tables import VerdictChange


def selected(filter: Filter, max_q: float | None, audit_id: str, asked_at: datetime) -> ColumnExpressionArgument[bool]:
    """Return a condition on the headline scores of an audit.

    Args:
        filter: Which samples are meant.
        max_q: Takes the place of the audit's q, if given.
        audit_id: The audit.
        asked_at: Verdicts count as they were then, so that one that changes meanwhile is in all of the file or none.

    Returns:
        The condition, for a query on Score.
    """
    flagged = flagged_at(max_q)
    said = (
        select(VerdictChange.outcome)
        .where(
            VerdictChange.audit_id == audit_id,
            VerdictChange.row == Score.row,
            VerdictChange.changed_at <= asked_at,
        )
        .order_by(VerdictChange.revision.desc())
        .limit(1)
        .scalar_subquery()
    )
    match filter:
        case "flagged":
            return flagged
        case "confirmed":
            return said == "confirmed"
        case "not_rejected":
            return and_(or_(flagged, said == "confirmed"), said.is_distinct_from("rejected"))
