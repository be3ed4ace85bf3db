"""Reading people and their roles."""

from collections.abc import Sequence

from sqlalchemy import Select, and_, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.principal import Principal
from service.scoping import owned
from service.store.newest_first import newest_first
from service.store.tables import Membership, User, Workspace

UserRow = tuple[User, Membership | None]
"""A person, and their membership of the workspace that asks."""


def find_user(session: Session, principal: Principal, user_id: str) -> UserRow:
    """Read one person.

    Args:
        session: An open transaction.
        principal: Who is asking.
        user_id: Which person.

    Raises:
        NotFoundError: `user_not_found`: there is none, or none in the workspace.
    """
    found = session.execute(_visible_users(principal).where(User.id == user_id)).one_or_none()
    if found is None:
        raise NotFoundError("user")
    return found[0], found[1]


def list_users(session: Session, principal: Principal, *, after: str | None, limit: int) -> Sequence[UserRow]:
    """Read the workspace's people, the newest first; for an admin of the installation all people.

    Args:
        session: An open transaction.
        principal: Who is asking.
        after: Id of the person behind whom to begin; None: at the newest.
        limit: The most that are read.
    """
    rows = session.execute(newest_first(_visible_users(principal), User.id, after=after, limit=limit))
    return [(user, membership) for user, membership in rows]


def own_workspaces(session: Session, user_id: str) -> Sequence[tuple[Workspace, str]]:
    """Read the workspaces in which a person has a role, with the role, by name.

    Args:
        session: An open transaction.
        user_id: Which person.
    """
    query = (
        select(Workspace, Membership.role)
        .join(Membership)
        .where(Membership.user_id == user_id)
        .order_by(Workspace.name)
    )
    return [(workspace, role) for workspace, role in session.execute(query)]


def _visible_users(principal: Principal) -> Select[User, Membership]:
    member = and_(Membership.user_id == User.id, owned(Membership, principal))
    query = select(User, Membership).outerjoin(Membership, member)
    return query if principal.administers_installation else query.where(Membership.id.is_not(None))
