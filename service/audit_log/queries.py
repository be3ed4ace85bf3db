"""Reading the audit log."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.principal import Principal
from service.scoping import scoped, visible_workspaces
from service.store.newest_first import newest_first
from service.store.tables import AuditLogEntry, Workspace


@dataclass(frozen=True)
class LogFilter:
    """Which entries are wanted; None: any."""

    key: str | None = None
    """Id of the key that did it."""
    user: str | None = None
    """Id of the person who did it."""
    action: str | None = None
    object: str | None = None
    """About the thing with this id, and what is part of it."""
    since: datetime | None = None
    """Only what was done at this time or later."""
    until: datetime | None = None
    """Only what was done before this time."""
    workspace: str | None = None
    """Id of a workspace that is being deleted, or is deleted; None: the principal's own."""


def list_entries(
    session: Session, principal: Principal, wanted: LogFilter, *, after: str | None, limit: int
) -> Sequence[AuditLogEntry]:
    """Read the workspace's entries, the newest first.

    Args:
        session: An open transaction.
        principal: Who is asking.
        wanted: Which entries.
        after: Id of the entry behind which to begin; None: at the newest.
        limit: The most that are read.

    Raises:
        NotFoundError: `workspace_not_found`: it is not deleted, or the principal does not administer the installation.
    """
    entry = AuditLogEntry
    query = scoped(entry, principal) if wanted.workspace is None else _of_deleted(session, principal, wanted.workspace)
    if wanted.key is not None:
        query = query.where(entry.key_id == wanted.key)
    if wanted.user is not None:
        query = query.where(entry.user_id == wanted.user)
    if wanted.action is not None:
        query = query.where(entry.action == wanted.action)
    if wanted.object is not None:
        part = entry.object_id.startswith(f"{wanted.object}/", autoescape=True)
        query = query.where(or_(entry.object_id == wanted.object, part))
    if wanted.since is not None:
        query = query.where(entry.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(entry.at < wanted.until)
    return session.scalars(newest_first(query, entry.id, after=after, limit=limit)).all()


def _of_deleted(session: Session, principal: Principal, workspace_id: str) -> Select[AuditLogEntry]:
    """Select the entries of a workspace in which nobody is any more who could read them."""
    deleted = visible_workspaces(principal).where(
        Workspace.id == workspace_id, Workspace.deletion_requested_at.is_not(None)
    )
    if session.scalars(deleted).one_or_none() is None:
        raise NotFoundError("workspace")
    return select(AuditLogEntry).join(Workspace).where(Workspace.id == workspace_id)
