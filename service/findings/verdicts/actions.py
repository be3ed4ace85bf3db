"""What users do with verdicts: set and withdraw them, one by one or for all that a filter keeps."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import BigInteger, Executable, bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from service.audits.queries import find_published
from service.errors import ConflictError, InvalidError
from service.findings.filters import listed
from service.findings.listing import find_rows
from service.findings.schemas import BulkResult, BulkSample, BulkVerdicts, VerdictSet
from service.findings.verdicts.queries import find_verdict
from service.http.audit_log import Action, record
from service.principal import Principal
from service.store.score_lists import PublishedAudit
from service.store.tables import Score
from service.store.verdict_tables import Verdict, VerdictChange

BULK_ROWS = 50_000
"""The most that one request changes: it ends within the API's statement timeout."""

BULK_WALK_ROWS = 500_000
"""The most samples that are looked at for those that a bulk is about."""

BULK_SAMPLE = 20
"""The most samples that the result of a bulk shows."""

CheckCurrent = Callable[[Verdict], None]
"""Called with what is said of the sample before it changes; what it raises is raised, and nothing changes."""


def set_one(
    session: Session, principal: Principal, audit_id: str, row: int, said: VerdictSet, *, check: CheckCurrent
) -> Verdict:
    """Say something of a sample; saying the same again changes nothing.

    Args:
        session: An open transaction; nobody else changes verdicts of the audit until it ends.
        principal: Who says it.
        audit_id: Which audit.
        row: Which sample.
        said: What to say.
        check: Says whether what was said before may be replaced.

    Raises:
        NotFoundError: `audit_not_found` or `finding_not_found`.
        ConflictError: `audit_not_finished`.
    """
    audit = find_published(session, principal, audit_id)
    return _change(session, principal, audit, row, said.verdict, said.note, check)


def withdraw(session: Session, principal: Principal, audit_id: str, row: int, *, check: CheckCurrent) -> None:
    """Take back what is said of a sample; its history stays. Idempotent.

    Args:
        session: An open transaction; nobody else changes verdicts of the audit until it ends.
        principal: Who withdraws it.
        audit_id: Which audit.
        row: Which sample.
        check: Says whether what was said before may be withdrawn.

    Raises:
        NotFoundError: `audit_not_found` or `finding_not_found`.
        ConflictError: `audit_not_finished`.
    """
    _change(session, principal, find_published(session, principal, audit_id), row, None, None, check)


def set_many(session: Session, principal: Principal, audit_id: str, bulk: BulkVerdicts) -> BulkResult:
    """Say the same of all samples that a filter keeps, all or none of them; with `dry_run` only count them.

    Args:
        session: An open transaction; nobody else changes verdicts of the audit until it ends.
        principal: Who says it.
        audit_id: Which audit.
        bulk: What to say, and of which samples.

    Raises:
        NotFoundError: `audit_not_found`.
        InvalidError: `dry_run_first` without a token, or `bulk_too_large` for more than BULK_ROWS.
        ConflictError: `audit_not_finished`; `bulk_changed` where the samples, or what is said of them, are no longer
            those of the dry run.
    """
    audit = find_published(session, principal, audit_id)
    if not bulk.dry_run and bulk.token is None:
        detail = "Send the request with dry_run first, and then again with the token that it gave."
        raise InvalidError("dry_run_first", detail, errors={"#/token": "missing"})
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
        raise InvalidError("bulk_too_large", detail, errors={"#/filter": "keeps too many"})
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
            raise ConflictError("bulk_changed", detail)
        _write(session, principal, audit, changed, *said)
        record(session, principal, "verdict.bulk", audit_id, count=len(changed))
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
    principal: Principal,
    audit: PublishedAudit,
    row: int,
    verdict: str | None,
    note: str | None,
    check: CheckCurrent,
) -> Verdict:
    _lock(session, audit)
    query = select(Verdict).where(Verdict.audit_id == audit.id, Verdict.row == row)
    current = find_verdict(session, audit, row)
    check(current)
    if (current.verdict, current.note) != (verdict, note):
        _write(session, principal, audit, [row], verdict, note)
        action: Action = "verdict.withdraw" if verdict is None else "verdict.set"
        record(session, principal, action, f"{audit.id}/findings/{row}")
        return session.scalars(query.execution_options(populate_existing=True)).one()
    return current


def _lock(session: Session, audit: PublishedAudit) -> None:
    """Take the lock that everyone who writes verdicts of the audit holds until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("verdicts " + audit.id, 0))))


def _these(rows: Sequence[int]) -> Any:
    return func.unnest(bindparam("rows", list(rows), ARRAY(BigInteger))).table_valued("wanted").render_derived()


def _said_before(audit: PublishedAudit, rows: Sequence[int]) -> Executable:
    """Select (row, rank, flagged, revision, verdict, note) of those samples, by rank."""
    these = _these(rows)
    return (
        select(Score.row, Score.rank, Score.flagged, func.coalesce(Verdict.revision, 0), Verdict.verdict, Verdict.note)
        .select_from(these)
        .join(Score, (Score.row == these.c.wanted) & (Score.list_id == audit.headline))
        .outerjoin(Verdict, (Verdict.audit_id == audit.id) & (Verdict.row == Score.row))
        .order_by(Score.rank)
    )


def _token(audit: PublishedAudit, bulk: BulkVerdicts, before: Sequence[Any]) -> str:
    """Stand for the request, the samples that it is about, and all that was said of them."""
    digest = hashlib.sha256(json.dumps([audit.id, bulk.verdict, bulk.note, bulk.filter.model_dump()]).encode())
    for row, _, _, revision, _, _ in before:
        digest.update(b"%d:%d," % (row, revision))
    return digest.hexdigest()[:40]


def _write(
    session: Session,
    principal: Principal,
    audit: PublishedAudit,
    rows: Sequence[int],
    verdict: str | None,
    note: str | None,
) -> None:
    """Write the verdicts in one statement and their history in another, however many rows there are."""
    if not rows:
        return
    these = _these(rows)
    said = {"verdict": verdict, "note": note, "key_id": principal.key_id, "user_id": principal.user_id}
    values = (
        select(
            literal(audit.id),
            Score.row,
            literal(audit.workspace_id),
            literal(verdict, type_=Verdict.verdict.type),
            literal(note, type_=Verdict.note.type),
            literal(principal.key_id, type_=Verdict.key_id.type),
            literal(principal.user_id, type_=Verdict.user_id.type),
            literal(1),
            Score.rank,
            Score.flagged,
        )
        .select_from(these)
        .join(Score, Score.row == these.c.wanted)
        .where(Score.list_id == audit.headline)
    )
    columns = ["audit_id", "row", "workspace_id", "verdict", "note", "key_id", "user_id"]
    columns += ["revision", "rank", "flagged"]
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
            Verdict.user_id,
            Verdict.decided_at,
        )
        .select_from(these)
        .join(Verdict, (Verdict.row == these.c.wanted) & (Verdict.audit_id == audit.id))
    )
    names = ["audit_id", "row", "revision", "workspace_id", "verdict", "note", "key_id", "user_id"]
    names.append("changed_at")
    session.execute(insert(VerdictChange).from_select(names, history))
