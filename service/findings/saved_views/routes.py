"""/v1/views: lists of findings under names, for every audit of the workspace."""

from typing import Annotated

from fastapi import Depends, Response

from service.findings.saved_views import actions
from service.findings.saved_views.queries import find_view, list_views, render_view
from service.findings.saved_views.schemas import SavedView, SavedViewCreate, SavedViewUpdate
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.idempotency import IDEMPOTENT
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.principal import Principal

router = resource_router("views", tag="findings")
Reader = Annotated[Principal, Depends(RequireScope("findings:read"))]
Writer = Annotated[Principal, Depends(RequireScope("verdicts:write"))]


@router.post(
    "",
    status_code=201,
    operation_id="create_view",
    dependencies=[IDEMPOTENT],
    responses=declared_problems(403, "view_name_taken", "view_quota", "workspace_deleted"),
)
def create(body: SavedViewCreate, principal: Writer, session: SessionDep, response: Response) -> SavedView:
    """Saves a list of findings under a name: filters, order and columns."""
    view = actions.create(session, principal, body)
    response.headers["Location"] = f"/v1/views/{view.id}"
    return view


@router.get("", operation_id="list_views", responses=declared_problems(403))
def list_all(principal: Reader, session: SessionDep, page: PageDep) -> Page[SavedView]:
    """The workspace's saved views, newest first."""
    found = list_views(session, principal, after=page.after, limit=page.limit + 1)
    return page.page(found, key=lambda view: view.id, render=render_view)


@router.get("/{view_id}", operation_id="get_view", responses=declared_problems(403, 404))
def get(view_id: PathId, principal: Reader, session: SessionDep) -> SavedView:
    """One saved view."""
    return render_view(find_view(session, principal, view_id))


@router.patch("/{view_id}", operation_id="update_view", responses=declared_problems(403, 404, "view_name_taken"))
def update(view_id: PathId, body: SavedViewUpdate, principal: Writer, session: SessionDep) -> SavedView:
    """Renames a saved view, or saves another list under its name."""
    return actions.update(session, principal, view_id, body)


@router.delete("/{view_id}", status_code=204, operation_id="delete_view", responses=declared_problems(403, 404))
def delete(view_id: PathId, principal: Writer, session: SessionDep) -> None:
    """Deletes a saved view; the findings do not change."""
    actions.delete(session, principal, view_id)
