"""Reading what people say of samples, now and before."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Row, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.findings.schemas import Verdict
from service.store.newest_first import newest_first
from service.store.score_lists import PublishedAudit
from service.store.tables import Score
from service.store.verdict_tables import Verdict as VerdictTable
from service.store.verdict_tables import VerdictChange

_SAID = VerdictTable.__table__.c
_VERDICTS = select(*_SAID).where(
    _SAID.audit_id == bindparam("audit_id"),
    _SAID.row == func.any(bindparam("rows", type_=ARRAY(BigInteger))),
    _SAID.verdict.is_not(None),
)


def find_verdicts(session: Session, audit: PublishedAudit, rows: Sequence[int]) -> dict[int, Row[Any]]:
    """Read what is said now of those of the rows of which anything is."""
    found = session.connection().execute(_VERDICTS, {"audit_id": audit.id, "rows": list(rows)})
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


def render_verdict(verdict: VerdictTable | Row[Any]) -> Verdict:
    """Show what is said of a sample now, read as an entity or as columns."""
    return Verdict.model_validate(verdict, from_attributes=True)


def finding_not_found() -> NotFoundError:
    """The error of a row that the audit's dataset does not have."""
    return NotFoundError("finding", "The audit's dataset has no such row. Rows count from 0.")


def _unsaid(session: Session, audit: PublishedAudit, row: int) -> VerdictTable:
    query = select(Score.rank, Score.flagged).where(Score.list_id == audit.headline, Score.row == row)
    found = session.execute(query).one_or_none()
    if found is None:
        raise finding_not_found()
    return VerdictTable(audit_id=audit.id, row=row, revision=0, rank=found.rank, flagged=found.flagged)
