"""What admins do with workspaces: create them, and keys in them."""

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.errors import ConflictError
from service.http.audit_log import record
from service.keys import actions as key_actions
from service.keys.schemas import KeyCreate, KeyWithSecret
from service.principal import Principal
from service.store.ids import new_id
from service.store.seed import add_registered_models
from service.store.tables import Workspace as WorkspaceTable
from service.workspaces.queries import find_workspace
from service.workspaces.schemas import Workspace, WorkspaceChange, WorkspaceCreate, render_workspace


def create(session: Session, principal: Principal, body: WorkspaceCreate) -> Workspace:
    """Make a workspace with the pre-registered models and without keys; the caller administers the installation.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: What to call it.

    Raises:
        ConflictError: `workspace_name_taken`.
    """
    workspace = session.scalars(
        insert(WorkspaceTable)
        .values(id=new_id("ws"), name=body.name)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(WorkspaceTable)
    ).one_or_none()
    if workspace is None:
        raise ConflictError("workspace_name_taken", "There is a workspace of this name already. Choose another name.")
    add_registered_models(session, workspace.id)
    record(session, principal, "workspace.create", workspace.id)
    return render_workspace(workspace)


def change(session: Session, principal: Principal, workspace_id: str, body: WorkspaceChange) -> Workspace:
    """Set limits of a workspace.

    What is above a new limit stays: nothing is cancelled or deleted, and only more is refused.

    Args:
        session: An open transaction.
        principal: Who is asking.
        workspace_id: Which workspace.
        body: The limits that change.

    Raises:
        NotFoundError: `workspace_not_found`.
        ForbiddenError: `installation_admin_only`.
    """
    workspace = find_workspace(session, principal, workspace_id)
    principal.require_installation_admin()
    for name in body.model_fields_set:
        setattr(workspace, name, getattr(body, name))
    session.flush()
    record(session, principal, "workspace.change", workspace.id)
    return render_workspace(workspace)


def create_key(session: Session, principal: Principal, workspace_id: str, body: KeyCreate) -> KeyWithSecret:
    """Make a key of a workspace that the principal may see.

    Args:
        session: An open transaction.
        principal: Who is asking; an admin.
        workspace_id: Which workspace.
        body: The key's name, what it may do, and how long.

    Raises:
        NotFoundError: `workspace_not_found`.
    """
    workspace = find_workspace(session, principal, workspace_id)
    return key_actions.create(session, principal, body, workspace_id=workspace.id)
