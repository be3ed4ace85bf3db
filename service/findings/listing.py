"""Finds the samples of a page, at a cost that has a bound whatever the depth of the page and the filter.

An order is *walked* along its index: at most WALK_ROWS samples are read, and the walk ends once the page is full. If a
filter keeps too few for a walk to fill the page, the samples that it keeps are *collected* by an index of the filter,
at most COLLECT_ROWS, and sorted. If it keeps more than that and still few of those walked along, the page is short or
empty, and its cursor continues where the walk ended.
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
"""The columns of a score, in the order of the table."""

ScoreColumns = Row[Any]
"""A row with the columns of a score."""

WALK_ROWS = 20_000
"""Most samples that a walk reads, which bounds the time of a page."""
COLLECT_ROWS = 10_000
"""Most samples that are collected and sorted."""

TEXT_WALK_ROWS = 200
"""Samples whose texts are read before the index of words is used: a word that every other text holds fills a page
sooner this way, and a rare one costs the page a few milliseconds more."""


@dataclass(frozen=True)
class FoundSamples:
    """Samples in the order of the list."""

    scores: list[ScoreColumns]
    positions: list[Position]
    """The position of each sample."""
    resume: Position | None = None
    """Where the search stopped before it had as many samples as wanted; None if it has them, or there are no more."""


def find_page(
    session: Session, within: Listed, wanted: Filter, order: Order, after: Position | None, limit: int
) -> FoundSamples:
    """Find the samples of a page, in their order.

    Args:
        session: An open transaction.
        within: The list to read.
        wanted: Which samples.
        order: How they are sorted.
        after: The position after which the page begins; None for the first page.
        limit: The most samples to find.

    Returns:
        The samples, and where to resume if the search ended early.

    Raises:
        InvalidError: `invalid_request`: the search text has no word.
    """
    if wanted.text is not None:
        check_text(session, wanted.text)
        found = _walk(session, within, wanted, order, after, limit, TEXT_WALK_ROWS)
        if len(found.scores) >= limit:
            return found
    # Samples that these filters keep are scattered over every order: a walk would hardly find any.
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
    """Find the rows of all samples that a filter keeps, by rank.

    Args:
        session: An open transaction.
        within: The list to read.
        wanted: Which samples.
        limit: The most samples to find.
        walk_rows: The most samples to read.

    Returns:
        The rows; None if the search ended before all were found.

    Raises:
        InvalidError: `invalid_request`: the search text has no word.
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
    """Select those samples that the filter keeps, among the next `walk_rows` in a segment of the order."""
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
    """Select the next `walk_rows` samples of a segment along its index, filtered as far as the index allows."""
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
    """Return the position of the last sample that a walk read, and how many it read."""
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
    """Whether no sample behind the position can be kept: q never falls along the ranks."""
    if wanted.max_q is None or order.by != "rank" or order.descending:
        return False
    q = session.connection().scalar(select(Score.q).where(*within.of(Score), Score.rank == last.value))
    return q is None or q > wanted.max_q


# ---------------------------------------------------------------- collecting


Collector = Callable[[Listed, Filter], "Select[Any] | None"]


def _collected(
    session: Session, within: Listed, wanted: Filter, collectors: tuple[Collector, ...], order: Order
) -> list[int] | None:
    """Return the rows that one part of the filter keeps, if they are few; None if no part keeps few."""
    if order.by == "decided_at":
        return None  # a walk along the verdicts reads only reviewed samples
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
    """Select the members of a cluster.

    The first member is its own cluster and is not in the index of the others; whether it fits is checked later.
    """
    if wanted.cluster is None:
        return None
    others = select(Score.row).where(*within.of(Score), Score.cluster == wanted.cluster, Score.cluster != Score.row)
    first = select(Score.row).where(*within.of(Score), Score.row == wanted.cluster)
    return select(others.union_all(first).subquery().c.row)


def _by_q(within: Listed, wanted: Filter) -> Select[Any] | None:
    """Select samples of the first ranks whose q is low enough, unless there are more of them than are collected."""
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
    """Select a segment of the order from the given rows.

    The rows are read first: a planner that walked along the order to find them might walk all of it.
    """
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
    """Yield, for each segment still to come, whether it is the one without values."""
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
