"""Reading one finding by its row, and the texts of a page; `listing` finds which samples a page holds."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, cast, func, select
from sqlalchemy.orm import Session

from service.contract import ScoreRow
from service.findings.filters import HEADLINE
from service.findings.schemas import Finding, Result, Verdict
from service.store.tables import Audit, Score
from service.store.tables import Finding as FindingTable
from service.store.verdict_tables import Verdict as VerdictTable

PAGE_TEXT_BYTES = 8 * 2**20
"""A page ends early rather than hold more sample text than this; its first sample is whole whatever its size."""


def fitting(session: Session, audit: Audit, scores: Sequence[Score]) -> int:
    """How many of them a page holds without too much text."""
    size = func.octet_length(cast(FindingTable.messages, Text)) + func.octet_length(cast(FindingTable.extra, Text))
    measured = session.execute(_kept(audit, [score.row for score in scores], FindingTable.row, size))
    sizes = {row: length for row, length in measured}  # noqa: C416  # a result is no iterable of pairs to dict()
    total = 0
    for number, score in enumerate(scores):
        total += sizes.get(score.row, 0)
        if number and total > PAGE_TEXT_BYTES:
            return number
    return len(scores)


def top_scores(session: Session, audit: Audit, limit: int) -> list[Score]:
    """The first of the headline."""
    query = select(Score).where(*_published(audit), Score.probe_no == HEADLINE).order_by(Score.rank).limit(limit)
    return list(session.scalars(query))


def find_scores(session: Session, audit: Audit, row: int) -> list[Score]:
    """The scores of one sample: the headline first, then those of each probe where there are several."""
    query = select(Score).where(*_published(audit), Score.row == row).order_by(Score.probe_no)
    return list(session.scalars(query))


def find_texts(session: Session, audit: Audit, rows: Sequence[int]) -> dict[int, FindingTable]:
    """The text of those rows whose text is kept in the database."""
    return {finding.row: finding for finding in session.scalars(_kept(audit, rows, FindingTable))}


def score_fields(score: Score) -> dict[str, Any]:
    """The score as the fields of contract.ScoreRow."""
    return {name: getattr(score, name) for name in ScoreRow.model_fields}


def render_finding(score: Score, kept: FindingTable | None, verdict: VerdictTable | None) -> Finding:
    """The finding as lists show it."""
    return Finding(
        **score_fields(score),
        messages=None if kept is None else kept.messages,
        extra=None if kept is None else kept.extra,
        verdict=None if verdict is None else render_verdict(verdict),
    )


def render_verdict(verdict: VerdictTable) -> Verdict:
    """What is said of the sample now."""
    return Verdict.model_validate(verdict, from_attributes=True)


def render_probes(scores: list[Score]) -> list[Result]:
    """The result of each probe alone, of what `find_scores` found."""
    alone = scores[1:] or scores
    return [Result(**score_fields(score) | {"probe_no": number}) for number, score in enumerate(alone, start=1)]


def _kept(audit: Audit, rows: Sequence[int], *columns: Any) -> Select[Any]:
    return select(*columns).where(
        FindingTable.audit_id == audit.id,
        FindingTable.attempt == audit.published_attempt,
        FindingTable.row.in_(rows),
    )


def _published(audit: Audit) -> tuple[ColumnElement[bool], ...]:
    return Score.audit_id == audit.id, Score.attempt == audit.published_attempt
