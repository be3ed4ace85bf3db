"""/v1/comparisons: compares two finished audits of the workspace."""

from typing import Annotated

from fastapi import Depends, Query

from service.comparisons.comparing import compare, list_changed
from service.comparisons.matched import load_matched
from service.comparisons.schemas import Change, ChangedSample, Comparison
from service.http.auth.authentication import RequireScope
from service.http.dependencies import ObjectsDep, TransactionsDep
from service.http.fields import NO_NUL, Storable
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.principal import Principal

router = resource_router("comparisons")
Reader = Annotated[Principal, Depends(RequireScope("findings:read"))]
AuditId = Annotated[
    str,
    Query(max_length=100, description="An audit that has succeeded.", json_schema_extra=NO_NUL),
    Storable,
]


@router.get(
    "", operation_id="compare_audits", responses=declared_problems(403, "audit_not_found", "audit_not_finished")
)
async def get(
    base: AuditId, other: AuditId, principal: Reader, transactions: TransactionsDep, objects: ObjectsDep
) -> Comparison:
    """How the flags, the order, the configuration and the data of two audits differ.

    Flags are compared for up to 100,000 samples of each audit, and the order on up to 20,000 randomly chosen samples;
    the response says where that applies. Samples are matched by row within one dataset, and by their text between two.
    """
    sides, match = await load_matched(base, other, principal, transactions, objects)
    return await transactions.run(lambda session: compare(session, *sides, match))


@router.get(
    "/changes",
    operation_id="list_comparison_changes",
    responses=declared_problems(403, "audit_not_found", "audit_not_finished"),
)
async def changes(
    base: AuditId,
    other: AuditId,
    change: Annotated[Change, Query(description="Which samples.")],
    principal: Reader,
    transactions: TransactionsDep,
    objects: ObjectsDep,
    page: PageDep,
) -> Page[ChangedSample]:
    """The samples that one of the audits flags and the other does not, by rank in the one that does."""
    after = page.after_number or 0
    sides, match = await load_matched(base, other, principal, transactions, objects)
    found = await transactions.run(
        lambda session: list_changed(session, *sides, match, change, after_rank=after, limit=page.limit + 1)
    )
    return page.page(
        found,
        key=lambda one: one.other_rank if change == "newly_flagged" else one.base_rank,
        render=lambda one: one,
    )
