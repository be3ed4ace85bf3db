"""Reading findings: by rank, and one by its row."""

from typing import Any

from sqlalchemy import Text, and_, cast, func, select
from sqlalchemy.orm import Session

from service.findings.schemas import Finding
from service.store.tables import Audit, Score
from service.store.tables import Finding as FindingTable

PROBE_NO = 0
PAGE_TEXT_BYTES = 8 * 2**20
"""A page ends early rather than hold more sample text than this; its first sample is whole whatever its size."""


def list_scores(
    session: Session, audit: Audit, *, flagged: bool | None, after_rank: int, limit: int
) -> tuple[list[Score], int]:
    """At most `limit` scores of the published attempt behind `after_rank`, by rank, and how many of them fit a page."""
    size = func.octet_length(cast(FindingTable.messages, Text)) + func.octet_length(cast(FindingTable.extra, Text))
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
        .where(*_published(audit), Score.rank > after_rank)
        .order_by(Score.rank)
        .limit(limit)
    )
    if flagged is not None:
        query = query.where(Score.flagged if flagged else ~Score.flagged)
    found = session.execute(query).all()
    fitting, total = 0, 0
    for _, length in found:
        total += length
        if fitting and total > PAGE_TEXT_BYTES:
            break
        fitting += 1
    return [score for score, _ in found], fitting


def find_score(session: Session, audit: Audit, row: int) -> Score | None:
    """The score of one sample."""
    return session.scalars(select(Score).where(*_published(audit), Score.row == row)).one_or_none()


def find_texts(session: Session, audit: Audit, rows: list[int]) -> dict[int, FindingTable]:
    """The text of those rows whose text is kept in the database."""
    query = select(FindingTable).where(
        FindingTable.audit_id == audit.id,
        FindingTable.attempt == audit.published_attempt,
        FindingTable.row.in_(rows),
    )
    return {finding.row: finding for finding in session.scalars(query)}


def render_finding(score: Score, messages: list[Any] | None, extra: dict[str, Any] | None) -> Finding:
    """The finding as the API shows it."""
    return Finding(
        row=score.row,
        rank=score.rank,
        n=score.n,
        mu=score.mu,
        mu_low=score.mu_low,
        mu_high=score.mu_high,
        z=score.z,
        z_reference=score.z_reference,
        p=score.p,
        q=score.q,
        flagged=score.flagged,
        group=score.group,
        messages=messages,
        extra=extra,
    )


def _published(audit: Audit) -> tuple[Any, ...]:
    return Score.audit_id == audit.id, Score.attempt == audit.published_attempt, Score.probe_no == PROBE_NO
