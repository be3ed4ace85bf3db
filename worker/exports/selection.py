"""Which samples an export is about: those that `cleaned` leaves out and `flagged` holds."""

from sqlalchemy import ColumnExpressionArgument, and_

from service.contract import Side
from service.lifecycle.exports import Filter
from service.store.tables import Score


def selected(filter: Filter, max_q: float | None) -> ColumnExpressionArgument[bool]:
    """A condition on the headline's scores. `max_q` takes the place of the audit's q.

    A choice by verdict is one more case, whose condition looks the sample's verdict up.
    """
    match filter:
        case "flagged":
            if max_q is None:
                return Score.flagged
            # As an audit flags, at another q.
            return and_(Score.q <= max_q, Score.side.is_distinct_from(Side.AGAINST))
