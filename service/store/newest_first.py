"""The order of lists that grow at their top, and where a page of one begins."""

from typing import TypeVar, TypeVarTuple

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute

Columns = TypeVarTuple("Columns")
K = TypeVar("K", str, int)


def newest_first(
    query: Select[*Columns], key: InstrumentedAttribute[K], *, after: K | None, limit: int
) -> Select[*Columns]:
    """Select the newest rows of a query, in the order of a key that grows with every row.

    Args:
        query: Which rows.
        key: The column to order by; ids are time-ordered.
        after: The key behind which to begin; None: at the newest.
        limit: The most that are selected.
    """
    if after is not None:
        query = query.where(key < after)
    return query.order_by(key.desc()).limit(limit)
