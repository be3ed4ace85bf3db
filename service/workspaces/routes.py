"""/v1/workspaces: tenants. An admin of the installation makes them and their first keys; a key sees its own."""

from typing import Annotated

from fastapi import Depends, Response
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.http.auth.authentication import RequireScope
from service.http.auth.principal import Principal
from service.http.auth.scoping import not_found, visible_workspaces
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.idempotency import FORGETFUL, IDEMPOTENT
from service.http.pagination import Page, PageDep
from service.http.problems.problem import Problem
from service.http.routing import declared_problems, resource_router
from service.keys.schemas import KeyCreate, KeyWithSecret, render_key_with_secret
from service.keys.secrets import create_key
from service.store.ids import new_id
from service.store.seed import add_registered_models
from service.store.tables import Workspace as WorkspaceTable
from service.workspaces.schemas import Workspace, WorkspaceCreate, render_workspace

router = resource_router("workspaces")
Reader = Annotated[Principal, Depends(RequireScope())]
Admin = Annotated[Principal, Depends(RequireScope("admin"))]
InstallationAdmin = Annotated[Principal, Depends(RequireScope("admin", installation=True))]


@router.post(
    "",
    status_code=201,
    operation_id="create_workspace",
    dependencies=[IDEMPOTENT],
    responses=declared_problems(403, 409, "installation_admin_only", "workspace_name_taken"),
)
def create(body: WorkspaceCreate, _: InstallationAdmin, session: SessionDep, response: Response) -> Workspace:
    """Makes a workspace with the pre-registered models and without keys. Make its first key next."""
    workspace = session.scalars(
        insert(WorkspaceTable)
        .values(id=new_id("ws"), name=body.name)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(WorkspaceTable)
    ).one_or_none()
    if workspace is None:
        raise Problem(409, "workspace_name_taken", "There is a workspace of this name already. Choose another name.")
    add_registered_models(session, workspace.id)
    response.headers["Location"] = f"/v1/workspaces/{workspace.id}"
    return render_workspace(workspace)


@router.get("", operation_id="list_workspaces")
def list_all(principal: Reader, session: SessionDep, page: PageDep) -> Page[Workspace]:
    """The key's own workspace; for an admin of the installation all of them, newest first."""
    query = visible_workspaces(principal).order_by(WorkspaceTable.id.desc()).limit(page.limit + 1)
    if page.after is not None:
        query = query.where(WorkspaceTable.id < page.after)
    return page.page(session.scalars(query).all(), key=lambda row: row.id, render=render_workspace)


@router.get("/{workspace_id}", operation_id="get_workspace", responses=declared_problems(404))
def get(workspace_id: PathId, principal: Reader, session: SessionDep) -> Workspace:
    """One workspace that the key may see."""
    return render_workspace(_find(session, principal, workspace_id))


@router.post(
    "/{workspace_id}/keys",
    status_code=201,
    operation_id="create_workspace_key",
    dependencies=[FORGETFUL],
    responses=declared_problems(403, 404),
)
def create_first_key(workspace_id: PathId, body: KeyCreate, principal: Admin, session: SessionDep) -> KeyWithSecret:
    """Makes a key of that workspace: its first one, or one for a workspace that has lost all of its admin keys."""
    workspace = _find(session, principal, workspace_id)
    key, secret = create_key(
        session, workspace_id=workspace.id, name=body.name, scopes=body.scopes, expires_at=body.expires_at
    )
    return render_key_with_secret(key, secret)


def _find(session: Session, principal: Principal, workspace_id: str) -> WorkspaceTable:
    workspace = session.scalars(visible_workspaces(principal).where(WorkspaceTable.id == workspace_id)).one_or_none()
    if workspace is None:
        raise not_found("workspace")
    return workspace
