"""/v1/audits/{id}/findings: every sample of an audit, the most suspicious first."""

from typing import Annotated

from fastapi import Depends, Query

from service.audits.queries import find_succeeded
from service.contract import MAX_PROBES, ROWS_FILE, Side
from service.findings.queries import (
    Filter,
    find_scores,
    find_texts,
    list_scores,
    render_finding,
    render_probes,
    score_fields,
)
from service.findings.schemas import Finding, FindingDetail, Observation
from service.http.auth import Principal, require
from service.http.dependencies import ObjectsDep, SessionDep
from service.http.fields import PathId, Row
from service.http.pagination import Page, PageDep
from service.http.problems import Problem
from service.http.routing import declared_problems, resource_router
from service.store.objects import dataset_key
from service.store.rows import read_row
from service.store.tables import Score

router = resource_router("audits/{audit_id}/findings", tag="findings")
Reader = Annotated[Principal, Depends(require("findings:read"))]


@router.get("", operation_id="list_findings", responses=declared_problems(403, 404, "audit_not_finished"))
def list_all(
    audit_id: PathId,
    principal: Reader,
    session: SessionDep,
    page: PageDep,
    probe: Annotated[
        int, Query(ge=0, le=MAX_PROBES, description="0: the headline over all probes; 1, 2, ...: one probe alone.")
    ] = 0,
    flagged: Annotated[bool | None, Query(description="Only flagged samples, or only others.")] = None,
    group: Annotated[
        str | None,
        Query(
            max_length=10_000, description="Only samples of this group.", json_schema_extra={"pattern": r"^[^\x00]*$"}
        ),
    ] = None,
    cluster: Annotated[
        int | None, Query(ge=0, lt=2**63, description="Only the near-duplicates of which this is the first row.")
    ] = None,
    side: Annotated[Side | None, Query(description="Only samples that lean there.")] = None,
) -> Page[Finding]:
    """All samples by rank. A page holds fewer than `limit` where their text is very long."""
    audit = find_succeeded(session, principal, audit_id)
    wanted = Filter(probe_no=probe, flagged=flagged, group=group, cluster=cluster, side=side)
    scores, fitting = list_scores(session, audit, wanted, after_rank=page.after_number or 0, limit=page.limit + 1)
    keep = min(fitting, page.limit)
    texts = find_texts(session, audit, [score.row for score in scores[:keep]])

    def render(score: Score) -> Finding:
        text = texts.get(score.row)
        return render_finding(score, None, None) if text is None else render_finding(score, text.messages, text.extra)

    return page.page(scores, key=lambda score: score.rank, render=render, keep=keep)


@router.get(
    "/{row}", operation_id="get_finding", responses=declared_problems(403, "finding_not_found", "audit_not_finished")
)
def get(audit_id: PathId, row: Row, principal: Reader, session: SessionDep, objects: ObjectsDep) -> FindingDetail:
    """One sample's result with its text, the results of each probe, its trace and what simpler methods say."""
    audit = find_succeeded(session, principal, audit_id)
    scores = find_scores(session, audit, row)
    if not scores:
        raise Problem(404, "finding_not_found", "The audit's dataset has no such row. Rows count from 0.")
    kept = find_texts(session, audit, [row]).get(row)
    if kept is None:
        with objects.open(dataset_key(audit.workspace_id, audit.dataset_id, ROWS_FILE)) as file:
            sample = read_row(file, row)
    return FindingDetail(
        **score_fields(scores[0]),
        messages=sample["messages"] if kept is None else kept.messages,
        extra=sample["extra"] if kept is None else kept.extra,
        probes=render_probes(scores),
        trace=None if kept is None else [Observation.model_validate(observation) for observation in kept.trace],
        baselines=None if kept is None else kept.baselines,
    )
