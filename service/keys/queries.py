"""Reading keys and the browsers that are signed in with them, never their texts."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from service.principal import Principal
from service.scoping import get_scoped, owned, scoped
from service.store.newest_first import newest_first
from service.store.tables import ApiKey, BrowserSession, User


def find_key(session: Session, principal: Principal, key_id: str) -> ApiKey:
    """Read one key.

    Args:
        session: An open transaction.
        principal: Who is asking.
        key_id: Which key.

    Raises:
        NotFoundError: `key_not_found`.
    """
    return get_scoped(session, ApiKey, principal, key_id, kind="key")


def list_keys(session: Session, principal: Principal, *, after: str | None, limit: int) -> Sequence[ApiKey]:
    """Read the workspace's keys, the newest first, revoked ones too.

    Args:
        session: An open transaction.
        principal: Who is asking.
        after: Id of the key behind which to begin; None: at the newest.
        limit: The most that are read.
    """
    return session.scalars(newest_first(scoped(ApiKey, principal), ApiKey.id, after=after, limit=limit)).all()


def visible_sessions(principal: Principal) -> ColumnElement[bool]:
    """The condition that a principal may see and end a browser session: for admins the workspace's, else its own."""
    in_workspace = owned(BrowserSession, principal)
    if principal.may("admin"):
        return in_workspace
    if principal.user_id is not None:
        return in_workspace & (BrowserSession.user_id == principal.user_id)
    return in_workspace & (BrowserSession.key_id == principal.key_id)


def list_sessions(
    session: Session, principal: Principal, *, after: str | None, limit: int
) -> Sequence[tuple[BrowserSession, str | None, str | None]]:
    """Read the browsers that are signed in now, with the names of their keys or people, the newest first.

    Args:
        session: An open transaction.
        principal: Who is asking: sees its own, as an admin the workspace's.
        after: Id of the session behind which to begin; None: at the newest.
        limit: The most that are read.
    """
    query = (
        select(BrowserSession, ApiKey.name, User.shown_name)
        .outerjoin(ApiKey, ApiKey.id == BrowserSession.key_id)
        .outerjoin(User, User.id == BrowserSession.user_id)
        .where(
            visible_sessions(principal),
            BrowserSession.expires_at > func.now(),
            # Of a person's row all of these are null; sessions of people who are shut out are deleted.
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
        )
    )
    rows = session.execute(newest_first(query, BrowserSession.id, after=after, limit=limit))
    return [(browser, key_name, user_name) for browser, key_name, user_name in rows]
