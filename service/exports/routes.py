"""/v1/exports: files made in the background from an audit's samples and scores."""

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import BackgroundTasks, Depends, Query, Request, Response

from service.exports import actions
from service.exports.queries import find_export, find_finished, list_exports, render_export
from service.exports.schemas import Export, ExportCreate
from service.http.auth.authentication import RequireScope
from service.http.conditional.downloads import download
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep, weak_tag
from service.http.dependencies import ObjectsDep, SessionDep, SettingsDep, TransactionsDep
from service.http.fields import NO_NUL, PathId
from service.http.idempotency import IDEMPOTENT
from service.http.middleware.request_ids import request_id
from service.http.object_reads import deletions
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.lifecycle.transitions import TERMINAL
from service.principal import Principal
from service.store.objects import export_key, export_prefix

router = resource_router("exports")
of_audit = resource_router("audits/{audit_id}/exports", tag="exports")
Reader = Annotated[Principal, Depends(RequireScope("findings:read"))]
"""The permission to read findings includes exporting them, and deleting the files."""

POLL_SECONDS = "1"
"""How long a client should wait before it asks again, as `Retry-After`."""

MEDIA_TYPES = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}
"""Media type of a file by its format."""


@of_audit.post(
    "",
    status_code=202,
    operation_id="create_export",
    dependencies=[IDEMPOTENT],
    responses=declared_problems(403, 404, 409, "audit_not_finished", "export_quota", "workspace_deleted"),
)
def create(
    audit_id: PathId,
    body: ExportCreate,
    principal: Reader,
    session: SessionDep,
    settings: SettingsDep,
    background: BackgroundTasks,
    response: Response,
) -> Export:
    """Queues an export of an audit that has succeeded. Its state is at the Location."""
    export = actions.create(
        session, principal, audit_id, body, settings=settings, request_id=request_id.get(), later=background.add_task
    )
    response.headers["Location"] = f"/v1/exports/{export.id}"
    response.headers["Retry-After"] = POLL_SECONDS
    return export


@router.get("", operation_id="list_exports", responses=declared_problems(403))
def list_all(
    principal: Reader,
    session: SessionDep,
    page: PageDep,
    audit_id: Annotated[
        str | None,
        Query(max_length=100, description="Only exports of this audit.", json_schema_extra=NO_NUL),
    ] = None,
) -> Page[Export]:
    """The workspace's exports, newest first."""
    found = list_exports(session, principal, audit_id=audit_id, after=page.after, limit=page.limit + 1)
    return page.page(found, key=lambda row: row[0].id, render=render_export)


@router.get("/{export_id}", operation_id="get_export", responses=declared_problems(403, 404) | NOT_MODIFIED)
def get(
    export_id: PathId, principal: Reader, session: SessionDep, response: Response, conditions: ConditionsDep
) -> Export:
    """One export: state, progress with ETA, error, or the facts of its file."""
    export = render_export(find_export(session, principal, export_id))
    if export.status not in TERMINAL:
        response.headers["Retry-After"] = POLL_SECONDS
    # The remaining time changes without any other change.
    conditions.serve(weak_tag(export.model_dump(mode="json", exclude={"progress": {"eta_seconds"}})))
    return export


async def content(
    export_id: PathId, request: Request, principal: Reader, transactions: TransactionsDep, objects: ObjectsDep
) -> Response:
    """The file itself, or a range of it, so that an interrupted download can continue."""
    export = await transactions.run(lambda session: find_finished(session, principal, export_id))
    assert export.published_attempt is not None
    assert export.bytes is not None
    assert export.sha256 is not None
    return download(
        request,
        objects,
        export_key(export.workspace_id, export.id, export.published_attempt),
        size=export.bytes,
        sha256=export.sha256,
        media_type=MEDIA_TYPES[export.format],
        filename=f"{export.audit_id}-{export.kind}.{export.format}",
    )


for method in ("GET", "HEAD"):
    router.add_api_route(
        "/{export_id}/content",
        content,
        methods=[method],
        operation_id=f"{method.lower()}_export_content",
        response_class=Response,
        responses={
            200: {"content": {kind.partition(";")[0]: {} for kind in MEDIA_TYPES.values()}},
            206: {"description": "The bytes asked for."},
            304: {"description": "`If-None-Match` names what there is."},
            **declared_problems(403, 404, "export_not_finished", "range_not_satisfiable"),
        },
    )


@router.post(
    "/{export_id}/cancel", status_code=202, operation_id="cancel_export", responses=declared_problems(403, 404)
)
def cancel(export_id: PathId, principal: Reader, session: SessionDep, settings: SettingsDep) -> Export:
    """Cancels the export: at once if it is queued, otherwise as soon as its worker learns of it. Idempotent."""
    return actions.cancel(session, principal, export_id, settings=settings)


@router.delete(
    "/{export_id}",
    status_code=204,
    operation_id="delete_export",
    responses=declared_problems(403, 404, 409, "export_not_ended"),
)
async def delete(export_id: PathId, principal: Reader, transactions: TransactionsDep, objects: ObjectsDep) -> None:
    """Deletes an export that has ended, and its file."""
    await transactions.run(lambda session: actions.delete(session, principal, export_id))
    # Deletes at once if possible; otherwise the reconciler deletes it later.
    await run_sync(objects.delete_tree, export_prefix(principal.workspace_id, export_id), limiter=deletions)
