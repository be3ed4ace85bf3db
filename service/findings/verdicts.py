"""What people say of samples: set and withdrawn one by one or for all that a filter keeps; every change is kept."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Executable, Row, bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from service.findings.filters import listed
from service.findings.listing import find_rows
from service.findings.schemas import BulkResult, BulkSample, BulkVerdicts, VerdictSet
from service.http.auth.principal import Principal
from service.http.conditional.etags import Conditions, strong_tag
from service.http.problems.problem import Problem
from service.store.score_lists import PublishedAudit
from service.store.tables import Score
from service.store.verdict_tables import Verdict, VerdictChange

BULK_ROWS = 50_000
"""The most that one request changes: it ends within the API's statement timeout."""

BULK_WALK_ROWS = 500_000
"""So many samples are looked at for those that a bulk is about."""

BULK_SAMPLE = 20


_SAID = Verdict.__table__.c
_VERDICTS = select(*_SAID).where(
    _SAID.audit_id == bindparam("audit_id"),
    _SAID.row == func.any(bindparam("rows", type_=ARRAY(BigInteger))),
    _SAID.verdict.is_not(None),
)


def find_verdicts(session: Session, audit: PublishedAudit, rows: Sequence[int]) -> dict[int, Row[Any]]:
    """What is said of those rows now."""
    found = session.connection().execute(_VERDICTS, {"audit_id": audit.id, "rows": list(rows)})
    return {verdict.row: verdict for verdict in found}


def find_verdict(session: Session, audit: PublishedAudit, row: int) -> Verdict:
    """What is said of the row, or that nothing ever was (revision 0, not stored).

    Raises Problem 404 `finding_not_found`.
    """
    return session.get(Verdict, (audit.id, row)) or _unsaid(session, audit, row)


def verdict_tag(verdict: Verdict) -> str:
    """The entity tag of what is said of a sample."""
    return strong_tag("verdict", verdict.audit_id, verdict.row, verdict.revision)


def set_verdict(
    session: Session, audit: PublishedAudit, row: int, said: VerdictSet, principal: Principal, conditions: Conditions
) -> Verdict:
    """Says it of the row; saying the same again changes nothing. Raises Problem 404 `finding_not_found`, 412."""
    return _change(session, audit, row, said.verdict, said.note, principal, conditions)


def withdraw_verdict(
    session: Session, audit: PublishedAudit, row: int, principal: Principal, conditions: Conditions
) -> Verdict:
    """Takes back what is said of the row; its history stays. Idempotent. Raises Problem as `set_verdict` does."""
    return _change(session, audit, row, None, None, principal, conditions)


def list_changes(
    session: Session, audit: PublishedAudit, row: int, *, after: int | None, limit: int
) -> list[VerdictChange]:
    """Everything that was said of the row, newest first, behind the revision `after`."""
    query = select(VerdictChange).where(VerdictChange.audit_id == audit.id, VerdictChange.row == row)
    if after is not None:
        query = query.where(VerdictChange.revision < after)
    return list(session.scalars(query.order_by(VerdictChange.revision.desc()).limit(limit)))


def set_many(session: Session, audit: PublishedAudit, bulk: BulkVerdicts, principal: Principal) -> BulkResult:
    """Says it of all samples that the filter keeps, all or none; with `dry_run` counts them.

    Raises Problem 422 `bulk_too_large` for more than BULK_ROWS, 422 `dry_run_first` without a token, 409
    `bulk_changed` where the samples, or what is said of them, are not those of the dry run any more.
    """
    if not bulk.dry_run and bulk.token is None:
        detail = "Send the request with dry_run first, and then again with the token that it gave."
        raise Problem(422, "dry_run_first", detail, errors=[{"pointer": "#/token", "detail": "missing"}])
    rows = find_rows(
        session,
        listed(audit, bulk.filter.probe),
        bulk.filter,
        limit=BULK_ROWS + 1,
        walk_rows=BULK_WALK_ROWS,
    )
    if rows is None or len(rows) > BULK_ROWS:
        detail = (
            f"The filter keeps more than {BULK_ROWS:,} samples, or too few among too many to find them. Narrow it, for "
            "example with flagged, group, min_mu or max_q."
        )
        raise Problem(422, "bulk_too_large", detail, errors=[{"pointer": "#/filter", "detail": "keeps too many"}])
    if not bulk.dry_run:
        _lock(session, audit)
    before = session.execute(_said_before(audit, rows)).all()
    token = _token(audit, bulk, before)
    said = (bulk.verdict, None if bulk.verdict is None else bulk.note)
    changed = [row for row, _, _, _, verdict, note in before if (verdict, note) != said]
    if not bulk.dry_run:
        if bulk.token != token:
            detail = (
                f"The filter now keeps {len(before)} samples, and they, or what is said of them, are not those of the "
                "dry run. Nothing was changed; send it with dry_run again."
            )
            raise Problem(409, "bulk_changed", detail)
        _write(session, audit, changed, *said, principal)
    return BulkResult(
        dry_run=bulk.dry_run,
        verdict=bulk.verdict,
        count=len(before),
        changed=len(changed),
        sample=[
            BulkSample(row=row, rank=rank, flagged=flagged, verdict=verdict)
            for row, rank, flagged, _, verdict, _ in before[:BULK_SAMPLE]
        ],
        token=token if bulk.dry_run else None,
    )


def _change(
    session: Session,
    audit: PublishedAudit,
    row: int,
    verdict: str | None,
    note: str | None,
    principal: Principal,
    conditions: Conditions,
) -> Verdict:
    _lock(session, audit)
    query = select(Verdict).where(Verdict.audit_id == audit.id, Verdict.row == row)
    current = find_verdict(session, audit, row)
    conditions.guard(verdict_tag(current))
    if (current.verdict, current.note) != (verdict, note):
        _write(session, audit, [row], verdict, note, principal)
        return session.scalars(query.execution_options(populate_existing=True)).one()
    return current


def _lock(session: Session, audit: PublishedAudit) -> None:
    """One after the other: whoever writes verdicts of the audit holds its lock until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("verdicts " + audit.id, 0))))


def _unsaid(session: Session, audit: PublishedAudit, row: int) -> Verdict:
    query = select(Score.rank, Score.flagged).where(Score.list_id == audit.headline, Score.row == row)
    found = session.execute(query).one_or_none()
    if found is None:
        raise finding_not_found()
    return Verdict(audit_id=audit.id, row=row, revision=0, rank=found.rank, flagged=found.flagged)


def finding_not_found() -> Problem:
    """404."""
    return Problem(404, "finding_not_found", "The audit's dataset has no such row. Rows count from 0.")


def _these(rows: Sequence[int]) -> Any:
    return func.unnest(bindparam("rows", list(rows), ARRAY(BigInteger))).table_valued("wanted").render_derived()


def _said_before(audit: PublishedAudit, rows: Sequence[int]) -> Executable:
    """(row, rank, flagged, revision, verdict, note) of those samples, by rank."""
    these = _these(rows)
    return (
        select(Score.row, Score.rank, Score.flagged, func.coalesce(Verdict.revision, 0), Verdict.verdict, Verdict.note)
        .select_from(these)
        .join(Score, (Score.row == these.c.wanted) & (Score.list_id == audit.headline))
        .outerjoin(Verdict, (Verdict.audit_id == audit.id) & (Verdict.row == Score.row))
        .order_by(Score.rank)
    )


def _token(audit: PublishedAudit, bulk: BulkVerdicts, before: Sequence[Any]) -> str:
    """Stands for the request, the samples it is about, and all that was said of them."""
    digest = hashlib.sha256(json.dumps([audit.id, bulk.verdict, bulk.note, bulk.filter.model_dump()]).encode())
    for row, _, _, revision, _, _ in before:
        digest.update(b"%d:%d," % (row, revision))
    return digest.hexdigest()[:40]


def _write(
    session: Session,
    audit: PublishedAudit,
    rows: Sequence[int],
    verdict: str | None,
    note: str | None,
    principal: Principal,
) -> None:
    """One statement for the verdicts and one for their history, however many rows."""
    if not rows:
        return
    these = _these(rows)
    said = {"verdict": verdict, "note": note, "key_id": principal.key_id}
    values = (
        select(
            literal(audit.id),
            Score.row,
            literal(audit.workspace_id),
            literal(verdict, type_=Verdict.verdict.type),
            literal(note, type_=Verdict.note.type),
            literal(principal.key_id),
            literal(1),
            Score.rank,
            Score.flagged,
        )
        .select_from(these)
        .join(Score, Score.row == these.c.wanted)
        .where(Score.list_id == audit.headline)
    )
    columns = ["audit_id", "row", "workspace_id", "verdict", "note", "key_id", "revision", "rank", "flagged"]
    statement = insert(Verdict).from_select(columns, values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["audit_id", "row"],
            set_={**said, "decided_at": func.now(), "revision": Verdict.revision + 1},
        )
    )
    history = (
        select(
            Verdict.audit_id,
            Verdict.row,
            Verdict.revision,
            Verdict.workspace_id,
            Verdict.verdict,
            Verdict.note,
            Verdict.key_id,
            Verdict.decided_at,
        )
        .select_from(these)
        .join(Verdict, (Verdict.row == these.c.wanted) & (Verdict.audit_id == audit.id))
    )
    names = ["audit_id", "row", "revision", "workspace_id", "verdict", "note", "key_id", "changed_at"]
    session.execute(insert(VerdictChange).from_select(names, history))
