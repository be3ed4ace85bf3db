"""/v1/comparisons: two finished audits of the workspace beside each other."""

from functools import partial
from typing import Annotated

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, Query
from sqlalchemy.orm import Session

from service.audits.queries import find_succeeded
from service.comparisons.comparing import Match, Matches, Side, compare, list_changed, load_side, match_sides
from service.comparisons.schemas import Change, ChangedSample, Comparison
from service.http.auth.authentication import RequireScope
from service.http.dependencies import ObjectsDep, TransactionsDep
from service.http.fields import NO_NUL, Storable
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.http.transactions import Transactions
from service.principal import Principal
from service.store.objects import ObjectStore

router = resource_router("comparisons")
Reader = Annotated[Principal, Depends(RequireScope("findings:read"))]
AuditId = Annotated[
    str,
    Query(max_length=100, description="An audit that has succeeded.", json_schema_extra=NO_NUL),
    Storable,
]

_matches = Matches()
_readers = CapacityLimiter(2)
"""Reading two large datasets' digests takes seconds of a processor and some memory: no more at a time than this."""


@router.get(
    "", operation_id="compare_audits", responses=declared_problems(403, "audit_not_found", "audit_not_finished")
)
async def get(
    base: AuditId, other: AuditId, principal: Reader, transactions: TransactionsDep, objects: ObjectsDep
) -> Comparison:
    """How the flags, the order, the configuration and the data of two audits differ.

    Flags are compared up to 100,000 of each audit, and the order on up to 20,000 samples drawn by chance; the answer
    says where. Samples are matched by row within one dataset, and by their text between two.
    """
    sides, match = await _matched(base, other, principal, transactions, objects)
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
    sides, match = await _matched(base, other, principal, transactions, objects)
    found = await transactions.run(
        lambda session: list_changed(session, *sides, match, change, after_rank=after, limit=page.limit + 1)
    )
    return page.page(
        found,
        key=lambda one: one.other_rank if change == "newly_flagged" else one.base_rank,
        render=lambda one: one,
    )


async def _matched(
    base: str, other: str, principal: Principal, transactions: Transactions, objects: ObjectStore
) -> tuple[tuple[Side, Side], Match]:
    def load(session: Session) -> tuple[Side, Side]:
        return tuple(load_side(session, find_succeeded(session, principal, audit)) for audit in (base, other))  # type: ignore[return-value]

    sides = await transactions.run(load)
    match = _matches.find(*sides)
    if match is None:
        # No connection is held meanwhile.
        match = await run_sync(partial(match_sides, *sides, objects), limiter=_readers)
        _matches.keep(*sides, match)
    return sides, match
