"""Reading keys, never their texts."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.principal import Principal
from service.scoping import get_scoped, scoped
from service.store.newest_first import newest_first
from service.store.tables import ApiKey


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
