"""Reads verdicts on samples, present and past."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BigInteger, Row, ScalarSelect, bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, aggregate_order_by
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.findings.schemas import Verdict
from service.store.newest_first import newest_first
from service.store.score_lists import PublishedAudit
from service.store.tables import Score
from service.store.verdict_tables import Opinion, VerdictBulk, VerdictChange
from service.store.verdict_tables import Verdict as VerdictTable

REVIEWERS_SHOWN = 100
"""Most reviewers that a filter offers."""


def _opinions(audit_id: Any, row: Any) -> ScalarSelect[Any]:
    """Return a subquery for all opinions of a sample as one list, as the API shows them, the oldest first."""
    shown = func.jsonb_build_object(
        *("key_id", VerdictChange.key_id, "user_id", VerdictChange.user_id, "verdict", Opinion.verdict),
        *("note", VerdictChange.note, "decided_at", VerdictChange.changed_at),
    )
    listed = func.jsonb_agg(aggregate_order_by(shown, Opinion.revision))
    return (
        select(func.coalesce(listed, literal([], JSONB)))
        .join_from(
            Opinion,
            VerdictChange,
            (VerdictChange.audit_id == Opinion.audit_id)
            & (VerdictChange.row == Opinion.row)
            & (VerdictChange.revision == Opinion.revision),
        )
        .where(Opinion.audit_id == audit_id, Opinion.row == row)
        .correlate_except(Opinion, VerdictChange)
        .scalar_subquery()
    )


_SAID = VerdictTable.__table__.c
_VERDICTS = select(*_SAID, _opinions(_SAID.audit_id, _SAID.row).label("opinions")).where(
    _SAID.audit_id == bindparam("audit_id"),
    _SAID.row == func.any(bindparam("rows", type_=ARRAY(BigInteger))),
    _SAID.verdict.is_not(None),
)


def find_verdicts(session: Session, audit: PublishedAudit, rows: Sequence[int]) -> dict[int, Row[Any]]:
    """Return the verdicts that count now, by row, for those of the rows that have one.

    Args:
        session: An open transaction.
        audit: The published audit.
        rows: The samples.
    """
    found: Iterable[Row[Any]] = session.connection().execute(_VERDICTS, {"audit_id": audit.id, "rows": list(rows)})
    return {verdict.row: verdict for verdict in found}


def find_verdict(session: Session, audit: PublishedAudit, row: int) -> VerdictTable:
    """Return the verdict on a row, or a new one if there never was any (revision 0, not stored).

    Args:
        session: An open transaction.
        audit: The published audit.
        row: The sample.

    Raises:
        NotFoundError: `finding_not_found`.
    """
    return session.get(VerdictTable, (audit.id, row)) or _unsaid(session, audit, row)


def list_changes(
    session: Session, audit: PublishedAudit, row: int, *, after: int | None, limit: int
) -> list[VerdictChange]:
    """Return all changes of the verdict on a row, the newest first.

    Args:
        session: An open transaction.
        audit: The published audit.
        row: The sample.
        after: Revision of the last change of the page before; None for the first page.
        limit: The most changes to return.
    """
    query = select(VerdictChange).where(VerdictChange.audit_id == audit.id, VerdictChange.row == row)
    return list(session.scalars(newest_first(query, VerdictChange.revision, after=after, limit=limit)))


def render_verdict(found: Row[Any]) -> Verdict:
    """Return a verdict that `find_verdicts` found as the API shows it."""
    return Verdict.model_validate(found, from_attributes=True)


def show_verdict(session: Session, verdict: VerdictTable) -> Verdict:
    """Return a verdict that `find_verdict` found as the API shows it, with every reviewer's opinion.

    Args:
        session: An open transaction.
        verdict: The verdict; may be new and not stored.
    """
    opinions = session.scalar(select(_opinions(verdict.audit_id, verdict.row)))
    fields = {name: getattr(verdict, name) for name in Verdict.model_fields if name not in ("object", "opinions")}
    return Verdict.model_validate({**fields, "opinions": opinions})


def find_bulk(session: Session, audit: PublishedAudit, bulk_id: str) -> VerdictBulk:
    """Return one bulk of verdicts of the audit.

    Args:
        session: An open transaction.
        audit: The published audit.
        bulk_id: The bulk.

    Raises:
        NotFoundError: `bulk_not_found`.
    """
    bulk = session.get(VerdictBulk, bulk_id)
    if bulk is None or bulk.audit_id != audit.id:
        raise NotFoundError("bulk")
    return bulk


def list_bulks(session: Session, audit: PublishedAudit, *, after: str | None, limit: int) -> list[VerdictBulk]:
    """Return the audit's bulks of verdicts, the newest first.

    Args:
        session: An open transaction.
        audit: The published audit.
        after: Id of the last bulk of the page before; None for the first page.
        limit: The most bulks to return.
    """
    query = select(VerdictBulk).where(VerdictBulk.audit_id == audit.id)
    return list(session.scalars(newest_first(query, VerdictBulk.id, after=after, limit=limit)))


def find_reviewers(session: Session, audit: PublishedAudit) -> list[str]:
    """Return the ids of reviewers who have a verdict on the audit's samples now, at most REVIEWERS_SHOWN.

    It jumps along an index from one reviewer to the next, so that its cost follows the number of reviewers.

    Args:
        session: An open transaction.
        audit: The published audit.
    """
    mine = Opinion.audit_id == audit.id
    reviewer = Opinion.reviewer_id
    step = select(func.min(reviewer).label("id"), literal(1).label("number")).where(mine).cte(recursive=True)
    following = select(func.min(reviewer)).where(mine, reviewer > step.c.id).scalar_subquery()
    step = step.union_all(
        select(following, step.c.number + 1).where(step.c.id.is_not(None), step.c.number < REVIEWERS_SHOWN)
    )
    return list(session.scalars(select(step.c.id).where(step.c.id.is_not(None))))


def finding_not_found() -> NotFoundError:
    """Return the error for a row that the audit's dataset does not have."""
    return NotFoundError("finding", "The audit's dataset has no such row. Rows count from 0.")


def _unsaid(session: Session, audit: PublishedAudit, row: int) -> VerdictTable:
    """Return a new verdict of revision 0 for a sample that has none.

    Raises:
        NotFoundError: `finding_not_found`.
    """
    query = select(Score.rank, Score.flagged).where(Score.list_id == audit.headline, Score.row == row)
    found = session.execute(query).one_or_none()
    if found is None:
        raise finding_not_found()
    return VerdictTable(audit_id=audit.id, row=row, revision=0, rank=found.rank, flagged=found.flagged)
