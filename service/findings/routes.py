"""/v1/audits/{id}/findings: every sample of an audit, the most suspicious first."""

from typing import Annotated

from fastapi import Depends, Query, Response
from sqlalchemy.orm import Session

from service.audits.queries import find_published
from service.findings.filters import Filter, FilterDep, listed
from service.findings.listing import find_page
from service.findings.orders import Order, Sort
from service.findings.precision import precision_down_to
from service.findings.queries import (
    find_kept,
    find_scores,
    page_texts,
    render_finding,
    render_probes,
    render_verdict,
    score_fields,
)
from service.findings.schemas import Finding, FindingDetail, Observation
from service.findings.verdicts import find_verdicts, finding_not_found
from service.http.auth.authentication import RequireScope
from service.http.auth.principal import Principal
from service.http.dependencies import RowsDep, TransactionsDep
from service.http.fields import PathId, Row
from service.http.json_response import answer_json
from service.http.pagination import Page, PageDep, PageRequest
from service.http.routing import declared_problems, resource_router
from service.store.score_lists import HEADLINE
from service.store.stored_rows import StoredRows

router = resource_router("audits/{audit_id}/findings", tag="findings")
Reader = Annotated[Principal, Depends(RequireScope("findings:read"))]


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
    wanted: FilterDep,
    sort: Annotated[
        Sort,
        Query(description="The order. With a minus the largest come first; samples without a value come last."),
    ] = "rank",
) -> Response:
    """Samples, the most suspicious first or in the order asked for.

    A page holds fewer than `limit`, and may be empty, where texts are very long, or where the samples that the filter
    keeps lie far apart in that order: go on with `next_after` while `has_more`.
    """
    # A text is tried out under a savepoint.
    run = transactions.autocommit if wanted.text is None else transactions.run
    return await answer_json(run, response, lambda session: read_page(session, principal, audit_id, page, wanted, sort))


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
    rows: RowsDep,
) -> Response:
    """One sample's result with its text, the results of each probe, its trace and what simpler methods say."""
    return await answer_json(
        transactions.autocommit, response, lambda session: read_finding(session, rows, principal, audit_id, row)
    )


def read_page(
    session: Session, principal: Principal, audit_id: str, page: PageRequest, wanted: Filter, sort: Sort = "rank"
) -> Page[Finding]:
    """A page of the list. Raises Problem."""
    audit = find_published(session, principal, audit_id)
    order = Order.of(sort)
    after = None if page.after is None else order.parse(page.after)
    within = listed(audit, wanted.probe)
    found = find_page(session, within, wanted, order, after, page.limit + 1)
    rows = [score.row for score in found.scores[: page.limit]]
    keep, texts = page_texts(session, audit, rows)
    verdicts = find_verdicts(session, audit, rows[:keep])
    return page.page(
        list(zip(found.scores, found.positions, strict=True)),
        key=lambda one: one[1].cursor,
        render=lambda one: render_finding(
            one[0], texts.get(one[0].row), verdicts.get(one[0].row), probe_no=within.probe_no
        ),
        keep=keep,
        resume=None if found.resume is None else found.resume.cursor,
    )


def read_finding(session: Session, rows: StoredRows, principal: Principal, audit_id: str, row: int) -> FindingDetail:
    """One sample's result. Raises Problem, ObjectMissingError, ObjectStoreUnavailableError."""
    audit = find_published(session, principal, audit_id)
    scores = find_scores(session, audit, row)
    if not scores:
        raise finding_not_found()
    kept = find_kept(session, audit, row)
    if kept is None:
        sample = rows.row(audit.workspace_id, audit.dataset_id, row)
    verdict = find_verdicts(session, audit, [row]).get(row)
    return FindingDetail(
        **score_fields(scores[0], HEADLINE),
        messages=sample["messages"] if kept is None else kept.messages,
        extra=sample["extra"] if kept is None else kept.extra,
        probes=render_probes(scores),
        trace=None if kept is None else [Observation.model_validate(observation) for observation in kept.trace],
        baselines=None if kept is None else kept.baselines,
        verdict=None if verdict is None else render_verdict(verdict),
        precision=precision_down_to(session, audit, scores[0].rank),
    )
