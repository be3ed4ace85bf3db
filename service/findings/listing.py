"""Finding the samples of a page, at a cost that neither the depth of the page nor the filter can raise beyond a bound.

An order is *walked* along its index: at most WALK_ROWS samples are looked at, and the walk ends once the page is full.
Where a filter keeps so few that a walk does not fill the page, the samples that it keeps are *collected* by an index of
the filter, at most COLLECT_ROWS, and sorted. Where it keeps more than that and still few of those walked along, the
page is short or empty, and its cursor goes on where the walk ended.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BigInteger, Row, Select, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from service.findings.filters import (
    Filter,
    Listed,
    at_least,
    check_text,
    conditions,
    flagged_condition,
    group_condition,
    matching_texts,
    truncated_condition,
)
from service.findings.orders import Order, Position
from service.store.tables import Finding, Score
from service.store.verdict_tables import Opinion, Verdict

SCORE = tuple(Score.__table__.c)

ScoreColumns = Row[Any]
"""The columns of a score."""

WALK_ROWS = 20_000
COLLECT_ROWS = 10_000

TEXT_WALK_ROWS = 200
"""Samples whose texts are looked at before the index of words is asked: a word that every other text holds fills a page
sooner so, and one that is rare costs the page a few milliseconds more."""


@dataclass(frozen=True)
class FoundSamples:
    """Samples in their order."""

    scores: list[ScoreColumns]
    positions: list[Position]
    """Of each."""
    resume: Position | None = None
    """The search stopped here, before it had as many as wanted; None: it has them, or there are no more."""


def find_page(
    session: Session, within: Listed, wanted: Filter, order: Order, after: Position | None, limit: int
) -> FoundSamples:
    """Find the samples of a page, in their order.

    Args:
        session: An open transaction.
        within: The list that they are of.
        wanted: Which samples.
        order: How they are sorted.
        after: The position behind which to begin; None: at the first.
        limit: The most that are found.

    Raises:
        InvalidError: `invalid_request`: the text to look for has no word.
    """
    if wanted.text is not None:
        check_text(session, wanted.text)
        found = _walk(session, within, wanted, order, after, limit, TEXT_WALK_ROWS)
        if len(found.scores) >= limit:
            return found
    # What these keep lies nowhere in particular in any order: a walk would look in vain.
    kept = _collected(session, within, wanted, (_by_text, _by_verdict, _by_cluster, _by_reviewer), order)
    if kept is None:
        found = _walk(session, within, wanted, order, after, limit, WALK_ROWS)
        if found.resume is None:
            return found
        kept = _collected(
            session, within, wanted, (_by_q, _by_side, _by_truncated, _by_z, _by_mu, _by_flag, _by_group), order
        )
        if kept is None:
            return found
    return _sort(session, within, wanted, order, after, limit, kept)


def find_rows(session: Session, within: Listed, wanted: Filter, *, limit: int, walk_rows: int) -> list[int] | None:
    """Find the rows of all samples that a filter keeps, by rank; None where the search ended before all were found.

    Args:
        session: An open transaction.
        within: The list that they are of.
        wanted: Which samples.
        limit: The most that are found.
        walk_rows: The most samples that are looked at.

    Raises:
        InvalidError: `invalid_request`: the text to look for has no word.
    """
    if wanted.text is not None:
        check_text(session, wanted.text)
    order = Order.of("rank")
    collectors = (_by_text, _by_verdict, _by_cluster, _by_reviewer, _by_q, _by_side, _by_truncated)
    kept = _collected(session, within, wanted, collectors, order)
    if kept is not None:
        return _row_numbers(session, _sorted(within, wanted, order, None, limit, kept, without_value=False))
    statement = _walked(within, wanted, order, None, limit, walk_rows, without_value=False)
    rows = _row_numbers(session, statement)
    if len(rows) < limit:
        _, seen = _end_of_walk(session, within, wanted, order, None, walk_rows, without_value=False)
        if seen >= walk_rows:
            return None
    return rows


# ---------------------------------------------------------------- walking


def _walk(
    session: Session,
    within: Listed,
    wanted: Filter,
    order: Order,
    after: Position | None,
    limit: int,
    walk_rows: int,
) -> FoundSamples:
    scores: list[ScoreColumns] = []
    positions: list[Position] = []
    for without_value in _segments(order, after):
        start = after if after is not None and after.without_value == without_value else None
        statement = _walked(within, wanted, order, start, limit - len(scores), walk_rows, without_value=without_value)
        found = _read(session, statement, order)
        scores += [score for score, _ in found]
        positions += [position for _, position in found]
        if len(scores) >= limit:
            break
        last, seen = _end_of_walk(session, within, wanted, order, start, walk_rows, without_value=without_value)
        walk_rows -= seen
        if walk_rows <= 0:
            over = last is not None and _ends_behind(session, within, wanted, order, last)
            return FoundSamples(scores, positions, None if over else last)
    return FoundSamples(scores, positions)


def _walked(
    within: Listed,
    wanted: Filter,
    order: Order,
    after: Position | None,
    limit: int,
    walk_rows: int,
    *,
    without_value: bool,
) -> Select[Any]:
    """Of `walk_rows` samples in a segment of the order, those that the filter keeps."""
    walked = _along(within, wanted, order, after, walk_rows, without_value=without_value).subquery("walked").c
    return (
        select(*walked)
        .where(*conditions(walked, wanted, within))
        .order_by(*order.columns(walked, without_value=without_value))
        .limit(limit)
    )


def _along(
    within: Listed, wanted: Filter, order: Order, after: Position | None, walk_rows: int, *, without_value: bool
) -> Select[Any]:
    """The next `walk_rows` samples of a segment along its index, with the parts of the filter that the index holds."""
    if order.by == "decided_at":
        reviewed = (
            select(*SCORE, Verdict.decided_at)
            .join_from(Score, Verdict, Verdict.row == Score.row)
            .where(*within.of(Score), Verdict.audit_id == within.audit_id, Verdict.verdict.is_not(None))
        )
        if after is not None:
            reviewed = reviewed.where(order.behind(Verdict, after))
        return reviewed.order_by(*order.columns(Verdict)).limit(walk_rows)
    statement = select(*SCORE).where(*within.of(Score))
    segment = order.segment(Score, without_value=without_value)
    if segment is not None:
        statement = statement.where(segment)
    if order.by == "rank":
        if wanted.flagged:
            statement = statement.where(flagged_condition(Score, True))
        if wanted.truncated:
            statement = statement.where(truncated_condition(Score, True))
        if wanted.group is not None:
            statement = statement.where(group_condition(Score, wanted.group))
        if wanted.side is not None:
            statement = statement.where(Score.side == wanted.side)
    elif order.by == "mu" and wanted.min_mu is not None:
        statement = statement.where(at_least(Score.mu, wanted.min_mu))
    elif order.by == "z" and wanted.min_z is not None:
        statement = statement.where(at_least(Score.z, wanted.min_z, real=True))
    if after is not None:
        statement = statement.where(order.behind(Score, after, without_value=without_value))
    return statement.order_by(*order.columns(Score, without_value=without_value)).limit(walk_rows)


def _end_of_walk(
    session: Session,
    within: Listed,
    wanted: Filter,
    order: Order,
    after: Position | None,
    walk_rows: int,
    *,
    without_value: bool,
) -> tuple[Position | None, int]:
    """The last sample that a walk looked at, and how many it did."""
    walked = _along(within, wanted, order, after, walk_rows, without_value=without_value).subquery("walked").c
    keys = [getattr(walked, order.by), walked.row]
    backwards = replace(order, descending=not order.descending).columns(walked, without_value=without_value)
    query: Select[Any] = select(*keys, func.count().over()).order_by(*backwards).limit(1)
    last = session.connection().execute(query).one_or_none()
    if last is None:
        return None, 0
    value, row, seen = tuple(last)
    return order.position(None if without_value else value, row), seen


def _ends_behind(session: Session, within: Listed, wanted: Filter, order: Order, last: Position) -> bool:
    """Whether nothing behind can be kept: q never falls along the ranks."""
    if wanted.max_q is None or order.by != "rank" or order.descending:
        return False
    q = session.connection().scalar(select(Score.q).where(*within.of(Score), Score.rank == last.value))
    return q is None or q > wanted.max_q


# ---------------------------------------------------------------- collecting


Collector = Callable[[Listed, Filter], "Select[Any] | None"]


def _collected(
    session: Session, within: Listed, wanted: Filter, collectors: tuple[Collector, ...], order: Order
) -> list[int] | None:
    """The rows that one part of the filter keeps, where they are few; None where no part keeps few."""
    if order.by == "decided_at":
        return None  # a walk along the verdicts looks at reviewed samples alone
    for collector in collectors:
        statement = collector(within, wanted)
        if statement is None:
            continue
        rows = list(session.connection().scalars(statement.limit(COLLECT_ROWS + 1)))
        if len(rows) <= COLLECT_ROWS:
            return rows
    return None


def _by_text(within: Listed, wanted: Filter) -> Select[Any] | None:
    if wanted.text is None:
        return None
    return select(Finding.row).where(*matching_texts(within, wanted.text))


def _by_verdict(within: Listed, wanted: Filter) -> Select[Any] | None:
    if wanted.verdict in (None, "none"):
        return None
    given = select(Verdict.row).where(Verdict.audit_id == within.audit_id, Verdict.verdict == wanted.verdict)
    return given.order_by(Verdict.rank)


def _by_reviewer(within: Listed, wanted: Filter) -> Select[Any] | None:
    if wanted.reviewer is None:
        return None
    return select(Opinion.row).where(Opinion.audit_id == within.audit_id, Opinion.reviewer_id == wanted.reviewer)


def _by_cluster(within: Listed, wanted: Filter) -> Select[Any] | None:
    """The first member is its own cluster and is in no index of others; whether it is one is looked at later."""
    if wanted.cluster is None:
        return None
    others = select(Score.row).where(*within.of(Score), Score.cluster == wanted.cluster, Score.cluster != Score.row)
    first = select(Score.row).where(*within.of(Score), Score.row == wanted.cluster)
    return select(others.union_all(first).subquery().c.row)


def _by_q(within: Listed, wanted: Filter) -> Select[Any] | None:
    """Those of the first ranks, while there are no more."""
    if wanted.max_q is None:
        return None
    first = (
        select(Score.row, Score.q).where(*within.of(Score), Score.rank <= COLLECT_ROWS + 1).order_by(Score.rank)
    ).subquery()
    return select(first.c.row).where(first.c.q <= wanted.max_q)


def _by_side(within: Listed, wanted: Filter) -> Select[Any] | None:
    if wanted.side is None:
        return None
    return select(Score.row).where(*within.of(Score), Score.side == wanted.side).order_by(Score.rank)


def _by_truncated(within: Listed, wanted: Filter) -> Select[Any] | None:
    if not wanted.truncated:
        return None
    return select(Score.row).where(*within.of(Score), truncated_condition(Score, True)).order_by(Score.rank)


def _by_z(within: Listed, wanted: Filter) -> Select[Any] | None:
    if wanted.min_z is None:
        return None
    high = at_least(Score.z, wanted.min_z, real=True)
    return select(Score.row).where(*within.of(Score), high).order_by(Score.z, Score.row)


def _by_mu(within: Listed, wanted: Filter) -> Select[Any] | None:
    if wanted.min_mu is None:
        return None
    return select(Score.row).where(*within.of(Score), at_least(Score.mu, wanted.min_mu)).order_by(Score.mu, Score.row)


def _by_flag(within: Listed, wanted: Filter) -> Select[Any] | None:
    if not wanted.flagged:
        return None
    return select(Score.row).where(*within.of(Score), flagged_condition(Score, True)).order_by(Score.rank)


def _by_group(within: Listed, wanted: Filter) -> Select[Any] | None:
    if wanted.group is None:
        return None
    return select(Score.row).where(*within.of(Score), group_condition(Score, wanted.group)).order_by(Score.rank)


def _sort(
    session: Session,
    within: Listed,
    wanted: Filter,
    order: Order,
    after: Position | None,
    limit: int,
    rows: list[int],
) -> FoundSamples:
    scores: list[ScoreColumns] = []
    positions: list[Position] = []
    for without_value in _segments(order, after):
        start = after if after is not None and after.without_value == without_value else None
        statement = _sorted(within, wanted, order, start, limit - len(scores), rows, without_value=without_value)
        found = _read(session, statement, order)
        scores += [score for score, _ in found]
        positions += [position for _, position in found]
        if len(scores) >= limit:
            break
    return FoundSamples(scores, positions)


def _sorted(
    within: Listed,
    wanted: Filter,
    order: Order,
    after: Position | None,
    limit: int,
    rows: list[int],
    *,
    without_value: bool,
) -> Select[Any]:
    """Of those rows, a segment of the order. They are read first: a planner that walked along the order to find them
    might walk it whole."""
    these = Score.row == func.any(bindparam("rows", rows, ARRAY(BigInteger)))
    kept = select(*SCORE).where(*within.of(Score), these).cte("kept").prefix_with("MATERIALIZED").c
    statement = select(*kept).where(*conditions(kept, wanted, within))
    segment = order.segment(kept, without_value=without_value)
    if segment is not None:
        statement = statement.where(segment)
    if after is not None:
        statement = statement.where(order.behind(kept, after, without_value=without_value))
    return statement.order_by(*order.columns(kept, without_value=without_value)).limit(limit)


# ---------------------------------------------------------------- what both share


def _segments(order: Order, after: Position | None) -> Iterator[bool]:
    """Whether a segment is that without values, for each that is still to come."""
    if not order.nullable:
        yield False
        return
    if after is None or not after.without_value:
        yield False
    yield True


def _read(session: Session, statement: Select[Any], order: Order) -> list[tuple[ScoreColumns, Position]]:
    return [
        (score, order.position(getattr(score, order.by), score.row))
        for score in session.connection().execute(statement)
    ]


def _row_numbers(session: Session, statement: Select[Any]) -> list[int]:
    inner = statement.subquery()
    return list(session.connection().scalars(select(inner.c.row).order_by(inner.c.rank)))
