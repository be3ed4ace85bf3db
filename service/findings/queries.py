"""Reading one finding by its row, and the texts of a page; `listing` finds which samples a page holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Integer, Text, bindparam, case, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from service.contract import ScoreRow
from service.findings.listing import SCORE, ScoreColumns
from service.findings.schemas import Finding, Result, Verdict
from service.store.score_lists import HEADLINE, PublishedAudit
from service.store.tables import Finding as FindingTable
from service.store.tables import Score
from service.store.verdict_tables import Verdict as VerdictTable

FIELDS = tuple(name for name in ScoreRow.model_fields if name != "probe_no")
"""Of a contract.ScoreRow, those that are columns of `scores`."""

PAGE_TEXT_BYTES = 8 * 2**20
"""A page ends early rather than hold more sample text than this; its first sample is whole whatever its size."""


@dataclass(frozen=True)
class KeptText:
    """A sample's text, as it is kept in the database."""

    messages: list[Any]
    extra: dict[str, Any]


def page_texts(session: Session, audit: PublishedAudit, rows: Sequence[int]) -> tuple[int, dict[int, KeptText]]:
    """How many of the rows, from the first, a page holds without too much text, and the text of those that have one."""
    messages, extra = FindingTable.messages, FindingTable.extra
    size = func.octet_length(cast(messages, Text)) + func.octet_length(cast(extra, Text))
    wanted = _array(rows)
    place = func.array_position(wanted, FindingTable.row)
    sizes = select(
        place.label("place"),
        FindingTable.row,
        messages,
        extra,
        (func.sum(size).over(order_by=place) - size).label("before"),
        size.label("size"),
    ).where(*_kept(audit, wanted))
    measured = sizes.subquery().c
    # Long texts stay in the database; the first one fits, whatever its size.
    fits = (measured.before == 0) | (measured.before + measured.size <= PAGE_TEXT_BYTES)
    query = select(
        measured.place, measured.row, case((fits, measured.messages)), case((fits, measured.extra))
    ).order_by(measured.place)
    texts: dict[int, KeptText] = {}
    for number, row, its_messages, its_extra in session.execute(query):
        if its_messages is None:
            return number - 1, texts
        texts[row] = KeptText(its_messages, its_extra)
    return len(rows), texts


def top_scores(session: Session, audit: PublishedAudit, limit: int) -> list[ScoreColumns]:
    """The first of the headline."""
    query = select(*SCORE).where(Score.list_id == audit.headline).order_by(Score.rank).limit(limit)
    return list(session.execute(query))


def find_scores(session: Session, audit: PublishedAudit, row: int) -> list[ScoreColumns]:
    """The scores of one sample: the headline first, then those of each probe where there are several."""
    query = select(*SCORE).where(Score.list_id == func.any(_numbers("lists", audit.lists, Integer)), Score.row == row)
    return sorted(session.execute(query), key=lambda score: audit.lists.index(score.list_id))


def find_kept(session: Session, audit: PublishedAudit, row: int) -> FindingTable | None:
    """The row's text, trace and baselines, where they are kept in the database."""
    return session.scalars(select(FindingTable).where(*_kept(audit, _array([row])))).one_or_none()


def score_fields(score: ScoreColumns, probe_no: int) -> dict[str, Any]:
    """The score as the fields of contract.ScoreRow."""
    return {"probe_no": probe_no, **{name: getattr(score, name) for name in FIELDS}}


def render_finding(
    score: ScoreColumns, kept: KeptText | None, verdict: VerdictTable | None, *, probe_no: int = HEADLINE
) -> Finding:
    """The finding as lists show it."""
    return Finding(
        **score_fields(score, probe_no),
        messages=None if kept is None else kept.messages,
        extra=None if kept is None else kept.extra,
        verdict=None if verdict is None else render_verdict(verdict),
    )


def render_verdict(verdict: VerdictTable) -> Verdict:
    """What is said of the sample now."""
    return Verdict.model_validate(verdict, from_attributes=True)


def render_probes(scores: list[ScoreColumns]) -> list[Result]:
    """The result of each probe alone, of what `find_scores` found."""
    alone = scores[1:] or scores
    return [Result(**score_fields(score, number)) for number, score in enumerate(alone, start=1)]


def _kept(audit: PublishedAudit, rows: ColumnElement[Any]) -> tuple[ColumnElement[bool], ...]:
    return (
        FindingTable.audit_id == audit.id,
        FindingTable.attempt == audit.attempt,
        FindingTable.row == func.any(rows),
    )


def _array(rows: Sequence[int]) -> ColumnElement[Any]:
    return _numbers("rows", rows, BigInteger)


def _numbers(name: str, values: Sequence[int], type: Any) -> ColumnElement[Any]:
    return bindparam(name, list(values), ARRAY(type))
