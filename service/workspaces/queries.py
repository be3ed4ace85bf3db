"""Reading workspaces."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.principal import Principal
from service.scoping import visible_workspaces
from service.store.newest_first import newest_first
from service.store.tables import Workspace


def find_workspace(session: Session, principal: Principal, workspace_id: str) -> Workspace:
    """Read one workspace.

    Args:
        session: An open transaction.
        principal: Who is asking.
        workspace_id: Which workspace.

    Raises:
        NotFoundError: `workspace_not_found`: there is none, or none that the principal may see.
    """
    workspace = session.scalars(visible_workspaces(principal).where(Workspace.id == workspace_id)).one_or_none()
    if workspace is None:
        raise NotFoundError("workspace")
    return workspace


def list_workspaces(session: Session, principal: Principal, *, after: str | None, limit: int) -> Sequence[Workspace]:
    """Read the workspaces that the principal may see, the newest first, without those that are deleted.

    Args:
        session: An open transaction.
        principal: Who is asking.
        after: Id of the workspace behind which to begin; None: at the newest.
        limit: The most that are read.
    """
    query = visible_workspaces(principal).where(Workspace.deleted_at.is_(None))
    query = newest_first(query, Workspace.id, after=after, limit=limit)
    return session.scalars(query).all()
