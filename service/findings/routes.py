"""/v1/audits/{id}/findings: every sample of an audit, the most suspicious first."""

from typing import Annotated

from fastapi import Depends, Query

from service.audits.queries import find_succeeded
from service.contract import ROWS_FILE
from service.findings.queries import find_score, find_texts, list_scores, render_finding
from service.findings.schemas import Finding
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


@router.get("", operation_id="list_findings", responses=declared_problems(403, 404, 409))
def list_all(
    audit_id: PathId,
    principal: Reader,
    session: SessionDep,
    page: PageDep,
    flagged: Annotated[bool | None, Query(description="Only flagged samples, or only others.")] = None,
) -> Page[Finding]:
    """All samples by rank. A page holds fewer than `limit` where their text is very long."""
    audit = find_succeeded(session, principal, audit_id)
    scores, fitting = list_scores(
        session, audit, flagged=flagged, after_rank=page.after_number or 0, limit=page.limit + 1
    )
    keep = min(fitting, page.limit)
    texts = find_texts(session, audit, [score.row for score in scores[:keep]])

    def render(score: Score) -> Finding:
        text = texts.get(score.row)
        return render_finding(score, None, None) if text is None else render_finding(score, text.messages, text.extra)

    return page.page(scores, key=lambda score: score.rank, render=render, keep=keep)


@router.get("/{row}", operation_id="get_finding", responses=declared_problems(403, 404, 409))
def get(audit_id: PathId, row: Row, principal: Reader, session: SessionDep, objects: ObjectsDep) -> Finding:
    """One sample's result with its text."""
    audit = find_succeeded(session, principal, audit_id)
    score = find_score(session, audit, row)
    if score is None:
        raise Problem(404, "finding_not_found", "The audit's dataset has no such row. Rows count from 0.")
    kept = find_texts(session, audit, [row]).get(row)
    if kept is not None:
        return render_finding(score, kept.messages, kept.extra)
    sample = read_row(objects.path(dataset_key(audit.workspace_id, audit.dataset_id, ROWS_FILE)), row)
    return render_finding(score, sample["messages"], sample["extra"])
