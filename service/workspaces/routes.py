"""/v1/workspaces: tenants. An admin of the installation makes them and their first keys; a key sees its own."""

from typing import Annotated

from fastapi import Depends, Query, Response

from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep, SettingsDep
from service.http.fields import NO_NUL, PathId, Storable
from service.http.idempotency import FORGETFUL, IDEMPOTENT
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.keys.schemas import KeyCreate, KeyWithSecret
from service.principal import Principal
from service.workspaces import actions
from service.workspaces.queries import find_workspace, list_workspaces
from service.workspaces.schemas import Workspace, WorkspaceChange, WorkspaceCreate, WorkspaceUsage, render_workspace
from service.workspaces.usage import read_usage

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
def create(body: WorkspaceCreate, principal: InstallationAdmin, session: SessionDep, response: Response) -> Workspace:
    """Makes a workspace with the pre-registered models and without keys. Make its first key next."""
    workspace = actions.create(session, principal, body)
    response.headers["Location"] = f"/v1/workspaces/{workspace.id}"
    return workspace


@router.get("", operation_id="list_workspaces")
def list_all(principal: Reader, session: SessionDep, page: PageDep) -> Page[Workspace]:
    """The key's own workspace; for an admin of the installation all of them, newest first, but for deleted ones."""
    found = list_workspaces(session, principal, after=page.after, limit=page.limit + 1)
    return page.page(found, key=lambda workspace: workspace.id, render=render_workspace)


@router.get("/{workspace_id}", operation_id="get_workspace", responses=declared_problems(404))
def get(workspace_id: PathId, principal: Reader, session: SessionDep) -> Workspace:
    """One workspace that the key may see; for an admin of the installation also how far its deletion is."""
    return render_workspace(find_workspace(session, principal, workspace_id))


@router.patch(
    "/{workspace_id}",
    operation_id="change_workspace",
    responses=declared_problems(403, 404, 409, "installation_admin_only", "workspace_deleted"),
)
def change(workspace_id: PathId, body: WorkspaceChange, principal: Admin, session: SessionDep) -> Workspace:
    """Sets the workspace's own limits, or takes them away. What is above a new limit stays; only more is refused."""
    return actions.change(session, principal, workspace_id, body)


@router.delete(
    "/{workspace_id}",
    status_code=202,
    operation_id="delete_workspace",
    responses=declared_problems(403, 404, 409, "installation_admin_only", "first_workspace", "workspace_name_wrong"),
)
def delete(
    workspace_id: PathId,
    principal: Admin,
    session: SessionDep,
    name: Annotated[
        Annotated[str, Storable],
        Query(
            max_length=200,
            description="The workspace's name, so that none is deleted by accident.",
            json_schema_extra=NO_NUL,
        ),
    ],
) -> Workspace:
    """Deletes a workspace with everything in it, in the background. There is no way back.

    Its keys, and the people in it, can do nothing more at once; what runs is cancelled. `deletion` says how far it is,
    here, when asked again, and with GET. What is in the audit log stays there for as long as its entries are kept.
    """
    return actions.delete(session, principal, workspace_id, name)


@router.get("/{workspace_id}/usage", operation_id="get_workspace_usage", responses=declared_problems(404))
def usage(workspace_id: PathId, principal: Reader, session: SessionDep, settings: SettingsDep) -> WorkspaceUsage:
    """What the workspace has of what is limited, and how much it may have."""
    return read_usage(session, principal, workspace_id, settings)


@router.post(
    "/{workspace_id}/keys",
    status_code=201,
    operation_id="create_workspace_key",
    dependencies=[FORGETFUL],
    responses=declared_problems(403, 404, 409, "workspace_deleted"),
)
def create_first_key(workspace_id: PathId, body: KeyCreate, principal: Admin, session: SessionDep) -> KeyWithSecret:
    """Makes a key of that workspace: its first one, or one for a workspace that has lost all of its admin keys."""
    return actions.create_key(session, principal, workspace_id, body)
