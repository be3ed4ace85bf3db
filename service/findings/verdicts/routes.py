"""/v1/audits/{id}/findings/{row}/verdict, /v1/audits/{id}/verdicts and /precision: people's verdicts on findings."""

from typing import Annotated

from fastapi import Depends, Response

from service.audits.queries import find_published
from service.findings.precision import audit_precision
from service.findings.schemas import (
    AuditPrecision,
    Bulk,
    BulkResult,
    BulkUndone,
    BulkVerdicts,
    Verdict,
    VerdictChange,
    VerdictSet,
)
from service.findings.verdicts import actions
from service.findings.verdicts.queries import find_verdict, list_bulks, list_changes, show_verdict
from service.http.auth.authentication import RequireScope
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep, strong_tag
from service.http.dependencies import SessionDep, TransactionsDep
from service.http.fields import PathId, Row
from service.http.json_response import answer_json
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.principal import Principal
from service.store.verdict_tables import Verdict as VerdictTable

router = resource_router("audits/{audit_id}", tag="findings")
Reader = Annotated[Principal, Depends(RequireScope("findings:read"))]
Writer = Annotated[Principal, Depends(RequireScope("verdicts:write"))]


@router.get(
    "/findings/{row}/verdict",
    operation_id="get_verdict",
    responses=declared_problems(403, 404, "audit_not_finished", "finding_not_found") | NOT_MODIFIED,
)
def get(audit_id: PathId, row: Row, principal: Reader, session: SessionDep, conditions: ConditionsDep) -> Verdict:
    """The verdict on the sample now."""
    verdict = find_verdict(session, find_published(session, principal, audit_id), row)
    conditions.serve(_tag(verdict))
    return show_verdict(session, verdict)


@router.put(
    "/findings/{row}/verdict",
    operation_id="set_verdict",
    responses=declared_problems(403, 404, "audit_not_finished", "finding_not_found", "precondition_failed"),
)
def put(
    audit_id: PathId,
    row: Row,
    body: VerdictSet,
    principal: Writer,
    session: SessionDep,
    conditions: ConditionsDep,
    response: Response,
) -> Verdict:
    """Sets one's own verdict on the sample; those of others stay. With `If-Match`, only if none has changed since."""
    verdict = actions.set_one(
        session, principal, audit_id, row, body, check=lambda current: conditions.guard(_tag(current))
    )
    response.headers["ETag"] = _tag(verdict)
    return show_verdict(session, verdict)


@router.delete(
    "/findings/{row}/verdict",
    operation_id="withdraw_verdict",
    status_code=204,
    responses=declared_problems(403, 404, "audit_not_finished", "finding_not_found", "precondition_failed"),
)
def delete(audit_id: PathId, row: Row, principal: Writer, session: SessionDep, conditions: ConditionsDep) -> None:
    """Withdraws one's own verdict; the history stays. Idempotent."""
    actions.withdraw(session, principal, audit_id, row, check=lambda current: conditions.guard(_tag(current)))


@router.get(
    "/findings/{row}/verdict/history",
    operation_id="list_verdict_changes",
    responses=declared_problems(403, 404, "audit_not_finished", "finding_not_found"),
)
def history(audit_id: PathId, row: Row, principal: Reader, session: SessionDep, page: PageDep) -> Page[VerdictChange]:
    """All changes of the verdict on the sample, newest first: by which key or person, when."""
    audit = find_published(session, principal, audit_id)
    find_verdict(session, audit, row)
    changes = list_changes(session, audit, row, after=page.after_number, limit=page.limit + 1)
    return page.page(
        changes,
        key=lambda change: change.revision,
        render=lambda change: VerdictChange.model_validate(change, from_attributes=True),
    )


@router.post(
    "/verdicts",
    operation_id="set_verdicts",
    responses=declared_problems(403, 404, "audit_not_finished", "dry_run_first", "bulk_too_large", "bulk_changed"),
)
def set_all(audit_id: PathId, body: BulkVerdicts, principal: Writer, session: SessionDep) -> BulkResult:
    """Sets one verdict on all samples that a filter keeps: first with `dry_run`, then with the token it returned."""
    return actions.set_many(session, principal, audit_id, body)


@router.get(
    "/verdicts/bulks",
    operation_id="list_bulks",
    responses=declared_problems(403, 404, "audit_not_finished"),
)
def bulks(audit_id: PathId, principal: Reader, session: SessionDep, page: PageDep) -> Page[Bulk]:
    """Verdicts on many samples at once, newest first, and whether they were undone."""
    audit = find_published(session, principal, audit_id)
    found = list_bulks(session, audit, after=page.after, limit=page.limit + 1)
    return page.page(
        found, key=lambda bulk: bulk.id, render=lambda bulk: Bulk.model_validate(bulk, from_attributes=True)
    )


@router.post(
    "/verdicts/bulks/{bulk_id}/undo",
    operation_id="undo_bulk",
    responses=declared_problems(403, 404, "audit_not_finished", "bulk_not_found", "bulk_of_another", "bulk_undone"),
)
def undo(audit_id: PathId, bulk_id: PathId, principal: Writer, session: SessionDep) -> BulkUndone:
    """Restores the verdict that each sample of a bulk had before, unless it has changed since."""
    return actions.undo_bulk(session, principal, audit_id, bulk_id)


@router.get(
    "/precision",
    operation_id="get_audit_precision",
    response_model=AuditPrecision,
    responses=declared_problems(403, 404, "audit_not_finished"),
)
async def precision(audit_id: PathId, principal: Reader, response: Response, transactions: TransactionsDep) -> Response:
    """How many of the first findings people have confirmed, with exact intervals."""
    return await answer_json(
        transactions.autocommit,
        response,
        lambda session: audit_precision(session, find_published(session, principal, audit_id)),
    )


def _tag(verdict: VerdictTable) -> str:
    """Return the entity tag of the verdict on a sample."""
    return strong_tag("verdict", verdict.audit_id, verdict.row, verdict.revision)
