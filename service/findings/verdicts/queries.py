"""Reading what people say of samples, now and before."""

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


def _opinions(audit_id: Any, row: Any) -> ScalarSelect[Any]:
    """Every reviewer's opinion of a sample as one list, as the API shows them, the oldest first."""
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
    """Read what is said now of those of the rows of which anything is."""
    found: Iterable[Row[Any]] = session.connection().execute(_VERDICTS, {"audit_id": audit.id, "rows": list(rows)})
    return {verdict.row: verdict for verdict in found}


def find_verdict(session: Session, audit: PublishedAudit, row: int) -> VerdictTable:
    """Read what is said of a row, or make the verdict of one of which nothing ever was (revision 0, not stored).

    Args:
        session: An open transaction.
        audit: The published audit.
        row: Which sample.

    Raises:
        NotFoundError: `finding_not_found`.
    """
    return session.get(VerdictTable, (audit.id, row)) or _unsaid(session, audit, row)


def list_changes(
    session: Session, audit: PublishedAudit, row: int, *, after: int | None, limit: int
) -> list[VerdictChange]:
    """Read everything that was said of a row, the newest first.

    Args:
        session: An open transaction.
        audit: The published audit.
        row: Which sample.
        after: The revision behind which to begin; None: at the newest.
        limit: The most that are read.
    """
    query = select(VerdictChange).where(VerdictChange.audit_id == audit.id, VerdictChange.row == row)
    return list(session.scalars(newest_first(query, VerdictChange.revision, after=after, limit=limit)))


def render_verdict(found: Row[Any]) -> Verdict:
    """Show what is said of a sample now, as `find_verdicts` found it."""
    return Verdict.model_validate(found, from_attributes=True)


def show_verdict(session: Session, verdict: VerdictTable) -> Verdict:
    """Show what is said of a sample now, as `find_verdict` found it, with every reviewer's opinion."""
    opinions = session.scalar(select(_opinions(verdict.audit_id, verdict.row)))
    fields = {name: getattr(verdict, name) for name in Verdict.model_fields if name not in ("object", "opinions")}
    return Verdict.model_validate({**fields, "opinions": opinions})


def find_bulk(session: Session, audit: PublishedAudit, bulk_id: str) -> VerdictBulk:
    """Read one bulk of verdicts of the audit.

    Args:
        session: An open transaction.
        audit: The published audit.
        bulk_id: Which bulk.

    Raises:
        NotFoundError: `bulk_not_found`.
    """
    bulk = session.get(VerdictBulk, bulk_id)
    if bulk is None or bulk.audit_id != audit.id:
        raise NotFoundError("bulk")
    return bulk


def list_bulks(session: Session, audit: PublishedAudit, *, after: str | None, limit: int) -> list[VerdictBulk]:
    """Read the audit's bulks of verdicts, the newest first.

    Args:
        session: An open transaction.
        audit: The published audit.
        after: Id of the bulk behind which to begin; None: at the newest.
        limit: The most that are read.
    """
    query = select(VerdictBulk).where(VerdictBulk.audit_id == audit.id)
    return list(session.scalars(newest_first(query, VerdictBulk.id, after=after, limit=limit)))


def find_reviewers(session: Session, audit: PublishedAudit) -> list[str]:
    """Read the ids of who says something of the audit's samples now, by an index; REVIEWERS_SHOWN at most."""
    mine = Opinion.audit_id == audit.id
    reviewer = Opinion.reviewer_id
    step = select(func.min(reviewer).label("id"), literal(1).label("number")).where(mine).cte(recursive=True)
    following = select(func.min(reviewer)).where(mine, reviewer > step.c.id).scalar_subquery()
    step = step.union_all(
        select(following, step.c.number + 1).where(step.c.id.is_not(None), step.c.number < REVIEWERS_SHOWN)
    )
    return list(session.scalars(select(step.c.id).where(step.c.id.is_not(None))))


def finding_not_found() -> NotFoundError:
    """The error of a row that the audit's dataset does not have."""
    return NotFoundError("finding", "The audit's dataset has no such row. Rows count from 0.")


def _unsaid(session: Session, audit: PublishedAudit, row: int) -> VerdictTable:
    query = select(Score.rank, Score.flagged).where(Score.list_id == audit.headline, Score.row == row)
    found = session.execute(query).one_or_none()
    if found is None:
        raise finding_not_found()
    return VerdictTable(audit_id=audit.id, row=row, revision=0, rank=found.rank, flagged=found.flagged)
