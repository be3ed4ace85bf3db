"""/v1/audits: started, watched, cancelled, tried again."""

from typing import Annotated

from fastapi import BackgroundTasks, Depends, Query, Response
from sqlalchemy import select

from service.audits.queries import (
    find_audit,
    find_succeeded,
    list_audits,
    render_audit,
    render_audit_summary,
)
from service.audits.requests import check_request
from service.audits.schemas import Audit, AuditCreate, AuditEvent, AuditSummary
from service.contract import Summary
from service.http.auth import Principal, require
from service.http.dependencies import SessionDep, SettingsDep
from service.http.fields import PathId
from service.http.pagination import Page, PageDep
from service.http.problems import Problem
from service.http.request_ids import request_id
from service.http.routing import declared_problems, resource_router
from service.http.scoping import not_found
from service.lifecycle.commands import NotRetryableError, create_audit, request_cancel, retry_audit
from service.lifecycle.transitions import TERMINAL, State
from service.lifecycle.wakeup import wake_idle
from service.store.tables import AuditEvent as AuditEventTable

router = resource_router("audits")
Reader = Annotated[Principal, Depends(require())]
Writer = Annotated[Principal, Depends(require("audits:write"))]

POLL_SECONDS = "2"
"""When to ask again about an audit that has not ended."""


@router.post("", status_code=202, operation_id="create_audit", responses=declared_problems(403))
def create(
    body: AuditCreate,
    principal: Writer,
    session: SessionDep,
    settings: SettingsDep,
    background: BackgroundTasks,
    response: Response,
) -> Audit:
    """Queues an audit. Ask the Location for how far it is."""
    model = check_request(session, principal, body)
    audit = create_audit(
        session,
        workspace_id=principal.workspace_id,
        dataset_id=body.dataset_id,
        probe_ids=body.probe_ids,
        model_id=model.id,
        training=body.training,
        seeds=body.seeds,
        q=body.q,
        group_column=body.group_column,
        trusted_column=body.trusted_column,
        request_id=request_id.get(),
    )
    wake_idle(session, settings, "gpu", background.add_task)
    response.headers["Location"] = f"/v1/audits/{audit.id}"
    response.headers["Retry-After"] = POLL_SECONDS
    return render_audit(find_audit(session, principal, audit.id))


@router.get("", operation_id="list_audits")
def list_all(
    principal: Reader,
    session: SessionDep,
    page: PageDep,
    status: Annotated[State | None, Query(description="Only audits in this state.")] = None,
) -> Page[AuditSummary]:
    """The workspace's audits, newest first."""
    found = list_audits(session, principal, status=status, after=page.after, limit=page.limit + 1)
    return page.page(found, key=lambda row: row[0].id, render=render_audit_summary)


@router.get("/{audit_id}", operation_id="get_audit", responses=declared_problems(404))
def get(audit_id: PathId, principal: Reader, session: SessionDep, response: Response) -> Audit:
    """One audit: state, stage, progress with ETA, error or summary."""
    audit = render_audit(find_audit(session, principal, audit_id))
    if audit.status not in TERMINAL:
        response.headers["Retry-After"] = POLL_SECONDS
    return audit


@router.post("/{audit_id}/cancel", status_code=202, operation_id="cancel_audit", responses=declared_problems(403, 404))
def cancel(audit_id: PathId, principal: Writer, session: SessionDep, settings: SettingsDep) -> Audit:
    """Stops the audit: at once while it is queued, else as soon as its worker has heard of it. Idempotent."""
    try:
        request_cancel(
            session,
            workspace_id=principal.workspace_id,
            audit_id=audit_id,
            within_seconds=settings.cancel_seconds,
        )
    except LookupError:
        raise not_found("audit") from None
    return render_audit(find_audit(session, principal, audit_id))


@router.post(
    "/{audit_id}/retry", status_code=202, operation_id="retry_audit", responses=declared_problems(403, 404, 409)
)
def retry(
    audit_id: PathId, principal: Writer, session: SessionDep, settings: SettingsDep, background: BackgroundTasks
) -> Audit:
    """Queues a failed or cancelled audit again: it goes on where it was. Idempotent: one that is queued or runs is
    left alone."""
    try:
        retry_audit(session, workspace_id=principal.workspace_id, audit_id=audit_id, request_id=request_id.get())
    except LookupError:
        raise not_found("audit") from None
    except NotRetryableError as error:
        if error.state is State.SUCCEEDED:
            raise Problem(409, "audit_not_retryable", "This audit has succeeded. Start another one.") from None
        detail = "This audit is being cancelled. Retry it once it is cancelled."
        raise Problem(409, "audit_not_retryable", detail, headers={"Retry-After": POLL_SECONDS}) from None
    wake_idle(session, settings, "gpu", background.add_task)
    return render_audit(find_audit(session, principal, audit_id))


@router.get("/{audit_id}/events", operation_id="list_audit_events", responses=declared_problems(404))
def events(audit_id: PathId, principal: Reader, session: SessionDep, page: PageDep) -> Page[AuditEvent]:
    """What happened, oldest first. `next_after` stands on the last page too: ask again with it for what came since."""
    find_audit(session, principal, audit_id)
    query = (
        select(AuditEventTable)
        .where(AuditEventTable.audit_id == audit_id, AuditEventTable.seq > (page.after_number or 0))
        .order_by(AuditEventTable.seq)
        .limit(page.limit + 1)
    )
    return page.page(
        session.scalars(query).all(),
        key=lambda event: event.seq,
        render=lambda event: AuditEvent.model_validate(event, from_attributes=True),
        resumable=True,
    )


@router.get("/{audit_id}/summary", operation_id="get_audit_summary", responses=declared_problems(404, 409))
def summary(audit_id: PathId, principal: Reader, session: SessionDep) -> Summary:
    """The answer in numbers, of an audit that has succeeded."""
    return Summary.model_validate(find_succeeded(session, principal, audit_id).summary)
