"""/v1/audits/{id}/findings: every sample of an audit, the most suspicious first."""

import inspect
from typing import Annotated, Any

from fastapi import Depends, Query, Response
from sqlalchemy.orm import Session

from service.audits.queries import find_published
from service.findings.filters import Filter
from service.findings.orders import Sort
from service.findings.queries import FoundFinding, find_finding, read_page, with_text
from service.findings.schemas import Finding, FindingDetail
from service.http.auth.authentication import RequireScope
from service.http.dependencies import ObjectReadsDep, RowsDep, TransactionsDep
from service.http.fields import PathId, Row
from service.http.json_response import answer_json
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.principal import Principal

router = resource_router("audits/{audit_id}/findings", tag="findings")
Reader = Annotated[Principal, Depends(RequireScope("findings:read"))]


async def _filter(**values: Any) -> Filter:
    return Filter(**values)


# One parameter for each field of the model: a model as query parameter cannot be combined with other parameters.
_filter.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[
                field.annotation,
                *field.metadata,
                Query(description=field.description, json_schema_extra=field.json_schema_extra),
            ],
        )
        for name, field in Filter.model_fields.items()
    ]
)


@router.get(
    "",
    operation_id="list_findings",
    response_model=Page[Finding],
    responses=declared_problems(403, 404, "audit_not_finished"),
)
async def list_all(
    audit_id: PathId,
    principal: Reader,
    response: Response,
    transactions: TransactionsDep,
    page: PageDep,
    wanted: Annotated[Filter, Depends(_filter)],
    sort: Annotated[
        Sort,
        Query(description="The order. With a minus the largest come first; samples without a value come last."),
    ] = "rank",
) -> Response:
    """Samples, the most suspicious first or in the requested order.

    A page holds fewer than `limit` samples, and may be empty, if texts are very long, or if the samples that the filter
    keeps lie far apart in that order: continue with `next_after` while `has_more`.
    """

    def read(session: Session) -> Page[Finding]:
        audit = find_published(session, principal, audit_id)
        found = read_page(session, audit, wanted, sort=sort, after=page.after, limit=page.limit)
        return page.page_up_to(found.findings, found.next_key)

    return await answer_json(transactions.autocommit, response, read)


@router.get(
    "/{row}",
    operation_id="get_finding",
    response_model=FindingDetail,
    responses=declared_problems(403, "finding_not_found", "audit_not_finished"),
)
async def get(
    audit_id: PathId,
    row: Row,
    principal: Reader,
    response: Response,
    transactions: TransactionsDep,
    reads: ObjectReadsDep,
    rows: RowsDep,
) -> Response:
    """One sample's result with its text, the results of each probe, its trace and the scores of simpler methods."""

    def find(session: Session) -> str | FoundFinding:
        found = find_finding(session, find_published(session, principal, audit_id), row)
        return found.detail.model_dump_json() if found.has_text else found

    found = await transactions.autocommit(find)
    if isinstance(found, FoundFinding):
        unread = found
        content = await reads.run(lambda: with_text(unread, rows).model_dump_json())
    else:
        content = found
    return Response(content, headers=dict(response.headers), media_type="application/json")
