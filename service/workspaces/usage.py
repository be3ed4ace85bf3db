"""What a workspace has of what is limited."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.http.quotas import limits_of, read_storage
from service.lifecycle.transitions import HELD, State
from service.principal import Principal
from service.settings import Settings
from service.store.tables import Job
from service.workspaces.queries import find_workspace
from service.workspaces.schemas import StorageUse, Use, WorkspaceUsage


def read_usage(session: Session, principal: Principal, workspace_id: str, settings: Settings) -> WorkspaceUsage:
    """Read what one workspace has, beside its limits.

    Args:
        session: An open transaction.
        principal: Who is asking.
        workspace_id: Which workspace.
        settings: Hold the limits of workspaces without their own.

    Raises:
        NotFoundError: `workspace_not_found`: there is none, or none that the principal may see.
    """
    workspace = find_workspace(session, principal, workspace_id)
    limits = limits_of(workspace, settings)
    queued, running = session.execute(
        select(
            func.count().filter(Job.state == State.QUEUED),
            func.count().filter(Job.state.in_(sorted(HELD))),
        ).where(Job.workspace_id == workspace.id, Job.kind == "audit", Job.state.in_(sorted({State.QUEUED, *HELD})))
    ).one()
    storage = read_storage(session, workspace.id)
    return WorkspaceUsage(
        workspace_id=workspace.id,
        queued_audits=Use(used=queued, limit=limits.max_queued_audits),
        running_audits=Use(used=running, limit=limits.max_running_audits),
        storage=StorageUse(
            used=storage.total,
            limit=limits.max_bytes,
            uploads=storage.uploads,
            recordings=storage.recordings,
            exports=storage.exports,
        ),
    )
