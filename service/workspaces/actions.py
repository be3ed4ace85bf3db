"""What admins do with workspaces: create them, and keys in them."""

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.errors import ConflictError, InvalidError
from service.http.audit_log import record
from service.http.auth.principal_cache import rights_changed
from service.http.quotas import refuse_deleted
from service.keys import actions as key_actions
from service.keys.schemas import KeyCreate, KeyWithSecret
from service.lifecycle.workspaces import request_deletion
from service.principal import Principal
from service.store.ids import new_id
from service.store.seed import DEFAULT_WORKSPACE, add_registered_models
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
        raise ConflictError(
            "workspace_name_taken",
            "There is a workspace of this name already, or there was one whose entries in the audit log are kept. "
            "Choose another name.",
        )
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
        ConflictError: `workspace_deleted`.
    """
    workspace = find_workspace(session, principal, workspace_id)
    principal.require_installation_admin()
    refuse_deleted(workspace)
    for name in body.model_fields_set:
        setattr(workspace, name, getattr(body, name))
    session.flush()
    record(session, principal, "workspace.change", workspace.id)
    return render_workspace(workspace)


def delete(session: Session, principal: Principal, workspace_id: str, name: str) -> Workspace:
    """Delete a workspace with everything in it, in the background; its keys and people can do nothing more at once.

    Idempotent: asked for again, it says how far it is.

    Args:
        session: An open transaction.
        principal: Who is asking.
        workspace_id: Which workspace.
        name: What it is called, so that none is deleted by accident.

    Raises:
        NotFoundError: `workspace_not_found`.
        ForbiddenError: `installation_admin_only`.
        ConflictError: `first_workspace`.
        InvalidError: `workspace_name_wrong`.
    """
    workspace = find_workspace(session, principal, workspace_id)
    principal.require_installation_admin()
    if workspace.name == DEFAULT_WORKSPACE:
        raise ConflictError(
            "first_workspace", "This is the workspace that administers the installation: it cannot be deleted."
        )
    if name != workspace.name:
        raise InvalidError(
            "workspace_name_wrong",
            "This is not the workspace's name. Nothing was deleted. Give the name of the workspace that is to be "
            "deleted with everything in it.",
            errors={"query:name": "not the name of this workspace"},
        )
    if request_deletion(session, workspace_id=workspace.id):
        rights_changed(session)
        record(session, principal, "workspace.delete", workspace.id)
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
        ConflictError: `workspace_deleted`.
    """
    workspace = find_workspace(session, principal, workspace_id)
    refuse_deleted(workspace)
    return key_actions.create(session, principal, body, workspace_id=workspace.id)
