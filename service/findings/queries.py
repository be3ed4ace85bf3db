"""Reading one finding by its row, and the texts of a page; `listing` finds which samples a page holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Integer, Row, Select, Text, bindparam, case, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from service.contract.results import ScoreRow
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


_KEPT = FindingTable.__table__.c
_ROWS = bindparam("rows", type_=ARRAY(BigInteger))
_THESE = (
    _KEPT.audit_id == bindparam("audit_id"),
    _KEPT.attempt == bindparam("attempt"),
    _KEPT.row == func.any(_ROWS),
)
"""The kept texts of some rows."""


def _select_texts() -> Select[Any]:
    size = func.octet_length(cast(_KEPT.messages, Text)) + func.octet_length(cast(_KEPT.extra, Text))
    place = func.array_position(_ROWS, _KEPT.row)
    sizes = select(
        place.label("place"),
        _KEPT.row,
        _KEPT.messages,
        _KEPT.extra,
        (func.sum(size).over(order_by=place) - size).label("before"),
        size.label("size"),
    ).where(*_THESE)
    measured = sizes.subquery().c
    # Long texts stay in the database; the first one fits, whatever its size.
    fits = (measured.before == 0) | (measured.before + measured.size <= bindparam("most"))
    return select(measured.place, measured.row, case((fits, measured.messages)), case((fits, measured.extra))).order_by(
        measured.place
    )


# Made once: to build them would take longer than to run them.
_TEXTS = _select_texts()
_SCORES_OF_ROW = select(*SCORE).where(
    Score.list_id == func.any(bindparam("lists", type_=ARRAY(Integer))), Score.row == bindparam("row", type_=BigInteger)
)
_ONE: Select[Any] = select(_KEPT.messages, _KEPT.extra, _KEPT.trace, _KEPT.baselines).where(*_THESE)


def page_texts(session: Session, audit: PublishedAudit, rows: Sequence[int]) -> tuple[int, dict[int, KeptText]]:
    """How many of the rows, from the first, a page holds without too much text, and the text of those that have one."""
    texts: dict[int, KeptText] = {}
    asked = {**_of(audit, rows), "most": PAGE_TEXT_BYTES}
    for number, row, messages, extra in session.connection().execute(_TEXTS, asked):
        if messages is None:
            return number - 1, texts
        texts[row] = KeptText(messages, extra)
    return len(rows), texts


def top_scores(session: Session, audit: PublishedAudit, limit: int) -> list[ScoreColumns]:
    """The first of the headline."""
    query = select(*SCORE).where(Score.list_id == audit.headline).order_by(Score.rank).limit(limit)
    return list(session.connection().execute(query))


def flagged_scores(session: Session, audit: PublishedAudit, limit: int) -> list[ScoreColumns]:
    """The first of the headline that are flagged."""
    flagged = select(*SCORE).where(Score.list_id == audit.headline, Score.flagged)
    return list(session.connection().execute(flagged.order_by(Score.rank).limit(limit)))


def find_scores(session: Session, audit: PublishedAudit, row: int) -> list[ScoreColumns]:
    """The scores of one sample: the headline first, then those of each probe where there are several."""
    found = session.connection().execute(_SCORES_OF_ROW, {"lists": list(audit.lists), "row": row})
    return sorted(found, key=lambda score: audit.lists.index(score.list_id))


def find_kept(session: Session, audit: PublishedAudit, row: int) -> Row[Any] | None:
    """The row's messages, extra, trace and baselines, where they are kept in the database."""
    return session.connection().execute(_ONE, _of(audit, [row])).one_or_none()


Said = VerdictTable | Row[Any]
"""What is said of a sample: an entity, or the columns."""


def score_fields(score: ScoreColumns, probe_no: int) -> dict[str, Any]:
    """The score as the fields of contract.ScoreRow."""
    return {"probe_no": probe_no, **{name: getattr(score, name) for name in FIELDS}}


def render_finding(
    score: ScoreColumns, kept: KeptText | None, verdict: Said | None, *, probe_no: int = HEADLINE
) -> Finding:
    """The finding as lists show it."""
    return Finding(
        **score_fields(score, probe_no),
        messages=None if kept is None else kept.messages,
        extra=None if kept is None else kept.extra,
        verdict=None if verdict is None else render_verdict(verdict),
    )


def render_verdict(verdict: Said) -> Verdict:
    """What is said of the sample now."""
    return Verdict.model_validate(verdict, from_attributes=True)


def render_probes(scores: list[ScoreColumns]) -> list[Result]:
    """The result of each probe alone, of what `find_scores` found."""
    alone = scores[1:] or scores
    return [Result(**score_fields(score, number)) for number, score in enumerate(alone, start=1)]


def _of(audit: PublishedAudit, rows: Sequence[int]) -> dict[str, Any]:
    """What _THESE is asked with."""
    return {"audit_id": audit.id, "attempt": audit.attempt, "rows": list(rows)}
