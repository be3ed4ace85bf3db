"""/v1/sessions: the workspace's signed-in browsers, listed and signed out by admins."""

from typing import Annotated

from fastapi import Depends

from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.keys import actions
from service.keys.queries import list_sessions
from service.keys.schemas import SignedInBrowser, render_session
from service.principal import Principal

router = resource_router("sessions")
Admin = Annotated[Principal, Depends(RequireScope("admin"))]


@router.get("", operation_id="list_sessions", responses=declared_problems(403))
def list_all(principal: Admin, session: SessionDep, page: PageDep) -> Page[SignedInBrowser]:
    """The browsers that are signed in to the workspace, newest first."""
    found = list_sessions(session, principal, after=page.after, limit=page.limit + 1)
    return page.page(found, key=lambda row: row[0].id, render=render_session)


@router.delete("/{session_id}", status_code=204, operation_id="end_session", responses=declared_problems(403, 404))
def end(session_id: PathId, principal: Admin, session: SessionDep) -> None:
    """Signs the browser out. Its key works on: revoke that to keep somebody out."""
    actions.end_session(session, principal, session_id)
