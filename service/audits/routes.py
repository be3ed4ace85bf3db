"""/v1/audits: started, watched, cancelled, tried again, deleted."""

from typing import Annotated

from fastapi import BackgroundTasks, Depends, Query, Request, Response
from sqlalchemy.orm import Session

from service.audits import actions
from service.audits.estimate.estimate import estimate_audit
from service.audits.estimate.schemas import Estimate
from service.audits.live.changes import AuditChanges
from service.audits.live.event_stream import stream_events
from service.audits.live.versions import Version, find_tag, tag_of
from service.audits.queries import (
    AuditFilter,
    find_audit,
    find_state,
    list_audits,
    list_events,
    read_places,
    render_audit,
    render_audit_summary,
)
from service.audits.schemas import Audit, AuditCreate, AuditEvent, AuditsCancel, AuditsCancelled, AuditSummary
from service.audits.validation import check_request
from service.http.auth.authentication import RequireScope
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep
from service.http.dependencies import RowsDep, SessionDep, SettingsDep, TransactionsDep
from service.http.fields import NO_NUL, PathId
from service.http.idempotency import IDEMPOTENT
from service.http.middleware.request_ids import request_id
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.http.streaming.prefer import PreferredWaitDep, unless_disconnected
from service.http.streaming.sse import MEDIA_TYPE as EVENT_STREAM
from service.http.streaming.sse import LastEventId, event_number, wants_events
from service.lifecycle.transitions import TERMINAL, State
from service.principal import Principal

router = resource_router("audits")
Reader = Annotated[Principal, Depends(RequireScope())]
Writer = Annotated[Principal, Depends(RequireScope("audits:write"))]

REFUSALS = (
    "dataset_not_found",
    "probe_not_found",
    "model_not_found",
    "dataset_too_small",
    "group_column_not_found",
    "trusted_column_not_found",
    "trusted_column_invalid",
)
"""The codes of problems that `check_request` may answer."""

RETRY_AFTER = {"Retry-After": str(actions.POLL_SECONDS)}
"""Sent with an audit that has not ended."""


@router.post(
    "",
    status_code=202,
    operation_id="create_audit",
    dependencies=[IDEMPOTENT],
    responses=declared_problems(403, *REFUSALS, "queued_audits_quota", "workspace_deleted"),
)
def create(
    body: AuditCreate,
    principal: Writer,
    session: SessionDep,
    settings: SettingsDep,
    background: BackgroundTasks,
    response: Response,
) -> Audit:
    """Queues an audit. Ask the Location for how far it is."""
    audit = actions.create(
        session, principal, body, settings=settings, request_id=request_id.get(), later=background.add_task
    )
    response.headers.update({"Location": f"/v1/audits/{audit.id}"} | RETRY_AFTER)
    return audit


@router.post("/estimate", operation_id="estimate_audit", responses=declared_problems(*REFUSALS))
def estimate(
    body: AuditCreate, principal: Reader, session: SessionDep, settings: SettingsDep, rows: RowsDep
) -> Estimate:
    """What such an audit would cost, and what speaks against it, such as a weak probe.

    Steps, tokens, memory and time, each with what it rests on. Nothing is queued.
    """
    model = check_request(session, principal, body)
    return estimate_audit(session, principal, body, model, rows=rows, heartbeat_seconds=settings.heartbeat_seconds)


@router.get("", operation_id="list_audits")
def list_all(
    principal: Reader,
    session: SessionDep,
    settings: SettingsDep,
    page: PageDep,
    status: Annotated[State | None, Query(description="Only audits in this state.")] = None,
    search: Annotated[
        str | None,
        Query(
            max_length=200,
            description="Only audits whose dataset, model or one of whose probes has this in its name.",
            json_schema_extra=NO_NUL,
        ),
    ] = None,
    mine: Annotated[bool, Query(description="Only audits that your own key has created.")] = False,
) -> Page[AuditSummary]:
    """The workspace's audits, newest first."""
    wanted = AuditFilter(status=status, search=search, mine=mine)
    found = list_audits(session, principal, wanted, after=page.after, limit=page.limit + 1)
    places = read_places(session, found, settings)
    return page.page(
        found, key=lambda row: row[0].id, render=lambda row: render_audit_summary(row, places.get(row[0].id))
    )


@router.get(
    "/{audit_id}",
    operation_id="get_audit",
    response_model=Audit,
    responses=declared_problems(404, "too_many_waiting", "waiting_share_taken") | NOT_MODIFIED,
)
async def get(
    audit_id: PathId,
    principal: Reader,
    request: Request,
    transactions: TransactionsDep,
    settings: SettingsDep,
    conditions: ConditionsDep,
    wait: PreferredWaitDep,
) -> Response:
    """One audit: state, place in the queue, stage, progress with ETA, error or summary.

    With If-None-Match and `Prefer: wait=30`, as soon as it has changed.
    """

    def look(session: Session) -> Response:
        if conditions.asked:
            tag, state = find_tag(session, principal, audit_id, settings)
            if conditions.knows(tag):
                return Response(status_code=304, headers=_headers(tag, state))
        found = find_audit(session, principal, audit_id)
        audit = render_audit(found, read_places(session, [found], settings).get(audit_id))
        headers = _headers(tag_of(found[0], found[1], audit.waiting), audit.status)
        return Response(audit.model_dump_json(), headers=headers, media_type="application/json")

    response = await transactions.autocommit(look)
    if response.status_code == 304 and wait:
        changes: AuditChanges = request.app.state.audit_changes

        def is_news(version: Version | None) -> bool:
            return version is None or not conditions.knows(version.tag)

        changes.enter(principal.workspace_id)
        try:
            waited = await unless_disconnected(request, lambda: changes.next(audit_id, is_news, wait))
        finally:
            changes.leave(principal.workspace_id)
        if waited:
            response = await transactions.autocommit(look)
    if wait and conditions.asked:
        response.headers["Preference-Applied"] = f"wait={wait}"
    return response


def _headers(tag: str, state: State) -> dict[str, str]:
    return {"ETag": tag} | ({} if state in TERMINAL else RETRY_AFTER)


@router.delete(
    "/{audit_id}",
    status_code=204,
    operation_id="delete_audit",
    responses=declared_problems(403, 404, "audit_not_ended", "audit_in_use"),
)
def delete(audit_id: PathId, principal: Writer, session: SessionDep) -> None:
    """Deletes an audit that has ended, with its findings, verdicts, events and exports. There is no way back.

    It is gone at once; what it leaves in the database and the object store is cleared away in the background.
    """
    actions.delete(session, principal, audit_id)


@router.post("/cancel", status_code=202, operation_id="cancel_audits", responses=declared_problems(403))
def cancel_all(body: AuditsCancel, principal: Writer, session: SessionDep, settings: SettingsDep) -> AuditsCancelled:
    """Stops all queued audits of the workspace, or all running ones, or those of one creator. May be sent again."""
    return actions.cancel_all(session, principal, body, settings=settings)


@router.post("/{audit_id}/cancel", status_code=202, operation_id="cancel_audit", responses=declared_problems(403, 404))
def cancel(audit_id: PathId, principal: Writer, session: SessionDep, settings: SettingsDep) -> Audit:
    """Stops the audit: at once while it is queued, else as soon as its worker has heard of it. Idempotent."""
    return actions.cancel(session, principal, audit_id, settings=settings)


@router.post(
    "/{audit_id}/retry",
    status_code=202,
    operation_id="retry_audit",
    responses=declared_problems(403, 404, 409, "audit_not_retryable", "queued_audits_quota", "workspace_deleted"),
)
def retry(
    audit_id: PathId, principal: Writer, session: SessionDep, settings: SettingsDep, background: BackgroundTasks
) -> Audit:
    """Queues a failed or cancelled audit again: it goes on where it was.

    Idempotent: one that is queued or runs is left alone.
    """
    return actions.retry(
        session, principal, audit_id, settings=settings, request_id=request_id.get(), later=background.add_task
    )


@router.get(
    "/{audit_id}/events",
    operation_id="list_audit_events",
    response_model=Page[AuditEvent],
    responses=declared_problems(404, "too_many_waiting", "waiting_share_taken")
    | {
        200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
        204: {"description": "Of a stream: the audit has ended, and you have all its events."},
    },
)
async def events(
    audit_id: PathId,
    principal: Reader,
    request: Request,
    response: Response,
    transactions: TransactionsDep,
    page: PageDep,
    last_event_id: LastEventId = None,
) -> Response:
    """What happened, oldest first. `next_after` stands on the last page too: ask again with it for what came since.

    With `Accept: text/event-stream`: the same as they happen, as server-sent events, from Last-Event-ID on to the one
    that ends the audit.
    """
    after = page.after_number or 0
    if wants_events(request):
        number = event_number(last_event_id)
        changes: AuditChanges = request.app.state.audit_changes
        return await stream_events(
            request, principal, transactions, changes, audit_id, after if number is None else number
        )

    def look(session: Session) -> bytes:
        find_state(session, principal, audit_id)
        listed = page.page(
            list_events(session, audit_id, after=after, limit=page.limit + 1),
            key=lambda event: event.seq,
            render=lambda event: AuditEvent.model_validate(event, from_attributes=True),
            resumable=True,
        )
        return listed.model_dump_json().encode()

    content = await transactions.autocommit(look)
    headers = {**response.headers, "Vary": "Accept"}
    return Response(content, headers=headers, media_type="application/json")
