"""/v1/audit-log: what was changed in the workspace, for admins."""

from typing import Annotated

from fastapi import Depends, Query

from service.audit_log.queries import LogFilter, list_entries
from service.audit_log.schemas import LogEntry, render_entry
from service.http.audit_log import Action
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.fields import NO_NUL, Storable, Time
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.principal import Principal

router = resource_router("audit-log")
Admin = Annotated[Principal, Depends(RequireScope("admin"))]


async def _filter(
    key: Annotated[
        Annotated[str, Storable] | None,
        Query(max_length=200, description="Only what this key's id did.", json_schema_extra=NO_NUL),
    ] = None,
    user: Annotated[
        Annotated[str, Storable] | None,
        Query(max_length=200, description="Only what the person of this id did.", json_schema_extra=NO_NUL),
    ] = None,
    action: Annotated[Action | None, Query(description="Only this action.")] = None,
    of: Annotated[
        Annotated[str, Storable] | None,
        Query(
            alias="object",
            max_length=200,
            description="Only what was done to this id, or a part of it.",
            json_schema_extra=NO_NUL,
        ),
    ] = None,
    since: Annotated[Time | None, Query(description="Not before; RFC 3339 with an offset.")] = None,
    until: Annotated[Time | None, Query(description="Before; RFC 3339 with an offset.")] = None,
    workspace: Annotated[
        Annotated[str, Storable] | None,
        Query(
            max_length=200,
            description="The entries of this workspace, which is being deleted or is deleted, for admins of the "
            "installation.",
            json_schema_extra=NO_NUL,
        ),
    ] = None,
) -> LogFilter:
    return LogFilter(key=key, user=user, action=action, object=of, since=since, until=until, workspace=workspace)


@router.get("", operation_id="list_audit_log", responses=declared_problems(403, "workspace_not_found"))
def list_all(
    principal: Admin, session: SessionDep, page: PageDep, wanted: Annotated[LogFilter, Depends(_filter)]
) -> Page[LogEntry]:
    """Who changed what, newest first. It holds no text of a sample and no secret."""
    found = list_entries(session, principal, wanted, after=page.after, limit=page.limit + 1)
    return page.page(found, key=lambda entry: entry.id, render=render_entry)
