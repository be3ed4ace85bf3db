"""Reading findings: by rank, and one by its row."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, cast, func, select
from sqlalchemy.orm import Session

from service.contract import ScoreRow, Side
from service.findings.schemas import Finding, Result
from service.http.problems import Problem
from service.store.tables import Audit, Score
from service.store.tables import Finding as FindingTable

HEADLINE = 0
PAGE_TEXT_BYTES = 8 * 2**20
"""A page ends early rather than hold more sample text than this; its first sample is whole whatever its size."""


@dataclass(frozen=True)
class Filter:
    """Which samples a list holds; None: whatever it is."""

    probe_no: int = HEADLINE
    """0: the headline; 1, 2, ...: the result of one probe alone."""
    flagged: bool | None = None
    group: str | None = None
    cluster: int | None = None
    side: Side | None = None


def stored_probe_no(audit: Audit, probe_no: int) -> int:
    """Under which number that result is stored: an audit of one probe keeps it once, as the headline.

    Raises Problem 422 `invalid_request` for a probe that the audit does not have.
    """
    assert audit.summary is not None  # has succeeded
    probes = len(audit.summary["probes"])
    if probe_no > probes:
        have = "1 probe" if probes == 1 else f"{probes} probes"
        detail = f"The audit has {have}: ask for probe 1 to {probes}, or for 0, the headline over all."
        raise Problem(422, "invalid_request", detail, errors=[{"pointer": "query:probe", "detail": detail}])
    return HEADLINE if probes == 1 else probe_no


def list_scores(
    session: Session, audit: Audit, wanted: Filter, *, after_rank: int, limit: int
) -> tuple[list[Score], int]:
    """At most `limit` scores of the published attempt behind `after_rank`, by rank, and how many of them fit a page.

    Raises Problem as `stored_probe_no`.
    """
    size = func.octet_length(cast(FindingTable.messages, Text)) + func.octet_length(cast(FindingTable.extra, Text))
    conditions: list[Any] = [Score.rank > after_rank]
    if wanted.flagged is not None:
        conditions.append(Score.flagged if wanted.flagged else ~Score.flagged)  # as the partial index has it
    if wanted.group is not None:
        conditions.append(Score.group == wanted.group)
    if wanted.cluster is not None:
        conditions.append(Score.cluster == wanted.cluster)
    if wanted.side is not None:
        conditions.append(Score.side == wanted.side)
    query = (
        select(Score, func.coalesce(size, 0))
        .outerjoin(
            FindingTable,
            and_(
                FindingTable.audit_id == Score.audit_id,
                FindingTable.attempt == Score.attempt,
                FindingTable.row == Score.row,
            ),
        )
        .where(*_published(audit), Score.probe_no == stored_probe_no(audit, wanted.probe_no), *conditions)
        .order_by(Score.rank)
        .limit(limit)
    )
    found = session.execute(query).all()
    fitting, total = 0, 0
    for _, length in found:
        total += length
        if fitting and total > PAGE_TEXT_BYTES:
            break
        fitting += 1
    return [score for score, _ in found], fitting


def find_scores(session: Session, audit: Audit, row: int) -> list[Score]:
    """The scores of one sample: the headline first, then those of each probe where there are several."""
    query = select(Score).where(*_published(audit), Score.row == row).order_by(Score.probe_no)
    return list(session.scalars(query))


def find_texts(session: Session, audit: Audit, rows: list[int]) -> dict[int, FindingTable]:
    """The text of those rows whose text is kept in the database."""
    query = select(FindingTable).where(
        FindingTable.audit_id == audit.id,
        FindingTable.attempt == audit.published_attempt,
        FindingTable.row.in_(rows),
    )
    return {finding.row: finding for finding in session.scalars(query)}


def score_fields(score: Score) -> dict[str, Any]:
    """The score as the fields of contract.ScoreRow."""
    return {name: getattr(score, name) for name in ScoreRow.model_fields}


def render_finding(score: Score, messages: list[Any] | None, extra: dict[str, Any] | None) -> Finding:
    """The finding as lists show it."""
    return Finding(**score_fields(score), messages=messages, extra=extra)


def render_probes(scores: list[Score]) -> list[Result]:
    """The result of each probe alone, of what `find_scores` found."""
    alone = scores[1:] or scores
    return [Result(**score_fields(score) | {"probe_no": number}) for number, score in enumerate(alone, start=1)]


def _published(audit: Audit) -> tuple[ColumnElement[bool], ...]:
    return Score.audit_id == audit.id, Score.attempt == audit.published_attempt
