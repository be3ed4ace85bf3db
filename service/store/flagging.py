"""How an audit flags samples, as a condition on its scores."""

from sqlalchemy import ColumnElement, and_

from service.contract.results import Side
from service.store.tables import Score


def flagged_at(max_q: float | None) -> ColumnElement[bool]:
    """Return the condition on scores of samples that are flagged: at the audit's q, or at another one.

    What an audit flags leans toward the unwanted answers or is undecided; at another q the same holds.
    """
    if max_q is None:
        flagged: ColumnElement[bool] = Score.__table__.c.flagged
        return flagged
    return and_(Score.q <= max_q, Score.side.is_distinct_from(Side.AGAINST))
