"""What users do with verdicts: set and withdraw them, one by one or for all that a filter keeps, and undo that."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Session

from service.audits.queries import find_published
from service.errors import ConflictError, ForbiddenError, InvalidError
from service.findings.filters import listed
from service.findings.listing import find_rows
from service.findings.schemas import BulkResult, BulkSample, BulkUndone, BulkVerdicts, VerdictSet
from service.findings.verdicts.queries import find_bulk, find_verdict
from service.findings.verdicts.writing import lock, outcomes, say, undo
from service.http.audit_log import Action, record
from service.principal import Principal
from service.store.ids import new_id
from service.store.score_lists import PublishedAudit
from service.store.verdict_tables import Verdict, VerdictBulk

BULK_ROWS = 50_000
"""The most samples that one request changes: it takes a few seconds."""

BULK_WALK_ROWS = 500_000
"""The most samples that are read to find those of a bulk."""

BULK_SAMPLE = 20
"""The most samples that the result of a bulk shows."""

CheckCurrent = Callable[[Verdict], None]
"""Called with the present verdict before it changes; an exception that it raises is passed on, and nothing changes."""


def set_one(
    session: Session, principal: Principal, audit_id: str, row: int, said: VerdictSet, *, check: CheckCurrent
) -> Verdict:
    """Set the principal's verdict on a sample; those of others stay. Setting the same again changes nothing.

    Args:
        session: An open transaction; no other transaction changes verdicts of the audit until it ends.
        principal: Whose verdict it is.
        audit_id: The audit.
        row: The sample.
        said: The verdict and its note.
        check: Raises if the present verdict may not be replaced.

    Returns:
        The verdict that counts now.

    Raises:
        NotFoundError: `audit_not_found` or `finding_not_found`.
        ConflictError: `audit_not_finished`.
    """
    audit = find_published(session, principal, audit_id)
    return _change(session, principal, audit, row, said.verdict, said.note, check)


def withdraw(session: Session, principal: Principal, audit_id: str, row: int, *, check: CheckCurrent) -> None:
    """Withdraw the principal's own verdict on a sample; its history stays. Idempotent.

    Args:
        session: An open transaction; no other transaction changes verdicts of the audit until it ends.
        principal: Whose verdict it is.
        audit_id: The audit.
        row: The sample.
        check: Raises if the present verdict may not be withdrawn.

    Raises:
        NotFoundError: `audit_not_found` or `finding_not_found`.
        ConflictError: `audit_not_finished`.
    """
    _change(session, principal, find_published(session, principal, audit_id), row, None, None, check)


def set_many(session: Session, principal: Principal, audit_id: str, bulk: BulkVerdicts) -> BulkResult:
    """Set the same verdict on all samples that a filter keeps, all or none of them; with `dry_run` only count them.

    Args:
        session: An open transaction; no other transaction changes verdicts of the audit until it ends.
        principal: Whose verdict it is.
        audit_id: The audit.
        bulk: The verdict, and the filter.

    Returns:
        How many samples change, the first of them, and after a dry run the token that confirms it.

    Raises:
        NotFoundError: `audit_not_found`.
        InvalidError: `dry_run_first` without a token, or `bulk_too_large` for more than BULK_ROWS.
        ConflictError: `audit_not_finished`; `bulk_changed` if the samples, or the verdicts on them, are no longer those
            of the dry run.
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
        lock(session, audit)
    before = outcomes(session, principal, audit, rows, bulk.verdict)
    token = _token(principal, audit, bulk, before)
    said = (bulk.verdict, None if bulk.verdict is None else bulk.note)
    changed = [one for one in before if (one.own, one.own_note) != said]
    bulk_id = None
    if not bulk.dry_run:
        if bulk.token != token:
            detail = (
                f"The filter now keeps {len(before)} samples, and they, or what is said of them, are not those of the "
                "dry run. Nothing was changed; send it with dry_run again."
            )
            raise ConflictError("bulk_changed", detail)
        bulk_id = _keep_bulk(session, principal, audit, bulk, count=len(before), changed=len(changed))
        say(session, principal, audit, [one.row for one in changed], *said, bulk_id=bulk_id)
        record(session, principal, "verdict.bulk", audit_id, count=len(changed))
    return BulkResult(
        id=bulk_id,
        dry_run=bulk.dry_run,
        verdict=bulk.verdict,
        count=len(before),
        changed=len(changed),
        disputed=sum(one.outcome == "disputed" for one in changed),
        sample=[
            BulkSample(row=one.row, rank=one.rank, flagged=one.flagged, verdict=one.counted)
            for one in before[:BULK_SAMPLE]
        ],
        token=token if bulk.dry_run else None,
    )


def undo_bulk(session: Session, principal: Principal, audit_id: str, bulk_id: str) -> BulkUndone:
    """Undo a bulk: each of its samples is as it was before, unless its verdict has changed since.

    Args:
        session: An open transaction; no other transaction changes verdicts of the audit until it ends.
        principal: Whose bulk it is, or an admin.
        audit_id: The audit.
        bulk_id: The bulk.

    Returns:
        How many samples were restored, and how many were kept.

    Raises:
        NotFoundError: `audit_not_found` or `bulk_not_found`.
        ForbiddenError: `bulk_of_another`.
        ConflictError: `audit_not_finished`; `bulk_undone`: it was undone before.
    """
    audit = find_published(session, principal, audit_id)
    lock(session, audit)
    bulk = find_bulk(session, audit, bulk_id)
    if bulk.actor_id != principal.actor_id and not principal.may("admin"):
        detail = "Only whoever set these verdicts, or an admin, may undo them. Judge the samples yourself instead."
        raise ForbiddenError("bulk_of_another", detail)
    if bulk.undone_at is not None:
        raise ConflictError("bulk_undone", "These verdicts were undone before. Nothing was changed.")
    restored = undo(session, audit.id, bulk.id, bulk.actor_id)
    bulk.undone_at, bulk.undone_by, bulk.restored = func.now(), principal.actor_id, restored
    session.flush()
    record(session, principal, "verdict.bulk_undo", f"{audit.id}/verdicts/bulks/{bulk.id}", count=restored)
    return BulkUndone(id=bulk.id, restored=restored, kept=bulk.changed - restored)


def _change(
    session: Session,
    principal: Principal,
    audit: PublishedAudit,
    row: int,
    verdict: str | None,
    note: str | None,
    check: CheckCurrent,
) -> Verdict:
    lock(session, audit)
    current = find_verdict(session, audit, row)
    check(current)
    (own,) = outcomes(session, principal, audit, [row], verdict)
    if (own.own, own.own_note) == (verdict, note):
        return current
    say(session, principal, audit, [row], verdict, note)
    action: Action = "verdict.withdraw" if verdict is None else "verdict.set"
    record(session, principal, action, f"{audit.id}/findings/{row}")
    return session.get_one(Verdict, (audit.id, row), populate_existing=True)


def _keep_bulk(
    session: Session, principal: Principal, audit: PublishedAudit, bulk: BulkVerdicts, *, count: int, changed: int
) -> str:
    kept = VerdictBulk(
        id=new_id("bulk"),
        workspace_id=audit.workspace_id,
        audit_id=audit.id,
        key_id=principal.key_id,
        user_id=principal.user_id,
        verdict=bulk.verdict,
        note=bulk.note,
        filter=bulk.filter.model_dump(mode="json", exclude_defaults=True),
        count=count,
        changed=changed,
    )
    session.add(kept)
    session.flush()
    return kept.id


def _token(principal: Principal, audit: PublishedAudit, bulk: BulkVerdicts, before: Sequence[Any]) -> str:
    """Return a digest of the request, of the samples that it changes, and of their verdicts so far."""
    asked = [audit.id, principal.actor_id, bulk.verdict, bulk.note, bulk.filter.model_dump()]
    digest = hashlib.sha256(json.dumps(asked).encode())
    for one in before:
        digest.update(b"%d:%d," % (one.row, one.revision))
    return digest.hexdigest()[:40]
