"""The page that compares two audits: what both flag, what only one of them flags, and how their settings differ."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from service.audits.queries import AuditFilter, find_succeeded, list_audits
from service.comparisons.comparing import compare, list_changed
from service.comparisons.matched import load_matched
from service.comparisons.schemas import ChangedSample, Comparison
from service.http.dependencies import ObjectsDep, TransactionsDep
from service.http.fields import Storable
from service.lifecycle.transitions import State
from service.principal import Principal
from service.store.tables import Audit
from service.web import queries
from service.web.page_route import PageRoute
from service.web.pages.page import FindingsReader, answer_page

router = APIRouter(route_class=PageRoute)

CHOICES = 100
"""How many of the newest audits are offered to compare with."""

CHANGED = 50
"""Samples of each kind of change that are shown."""

AuditId = Annotated[str, Query(max_length=100), Storable]


@router.get("/comparisons")
async def comparison(
    principal: FindingsReader,
    transactions: TransactionsDep,
    objects: ObjectsDep,
    base: AuditId,
    other: AuditId | None = None,
) -> Response:
    """Show how the flags of two audits differ; with one alone, what it may be compared with."""
    found: Comparison | None = None
    changed: dict[str, list[ChangedSample]] = {}
    if other:
        sides, match = await load_matched(base, other, principal, transactions, objects)

        def read(session: Session) -> tuple[Comparison, dict[str, list[ChangedSample]]]:
            return compare(session, *sides, match), {
                "newly_flagged": list_changed(session, *sides, match, "newly_flagged", after_rank=0, limit=CHANGED),
                "no_longer_flagged": list_changed(
                    session, *sides, match, "no_longer_flagged", after_rank=0, limit=CHANGED
                ),
            }

        found, changed = await transactions.run(read)
    choices, names = await transactions.run(lambda session: _choices(session, principal, base))
    return answer_page(
        "comparison.html",
        "audits",
        principal,
        base=base,
        other=other,
        choices=choices,
        names=names,
        found=found,
        changed=changed,
    )


def _choices(session: Session, principal: Principal, base: str) -> tuple[list[Audit], dict[str, str]]:
    """Read what the base may be compared with, audits of its own dataset first, and the names of all."""
    own = find_succeeded(session, principal, base)
    succeeded = AuditFilter(status=State.SUCCEEDED)
    listed = [row[0] for row in list_audits(session, principal, succeeded, after=None, limit=CHOICES)]
    others = sorted(
        (audit for audit in listed if audit.id != base), key=lambda audit: audit.dataset_id != own.dataset_id
    )
    ids = [one for audit in (own, *others) for one in (audit.dataset_id, audit.model_id)]
    return [own, *others], queries.names(session, principal, ids)
