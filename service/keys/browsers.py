"""Browsers that sign in with a key typed into the page."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlalchemy.orm import Session

from service.http.auth.key_format import digest, is_well_formed
from service.keys.secrets import open_browser_session
from service.store.tables import ApiKey

Reason = Literal["malformed", "unknown", "expired", "revoked"]


@dataclass(frozen=True)
class KeyRefused:
    """Why a key signs nobody in."""

    reason: Reason


def sign_in_with_key(session: Session, secret: str, *, hours: int) -> str | KeyRefused:
    """Open a browser session with the rights of the key, which ends with the key.

    A text that the key had before its last rotation opens one until its overlap is over. A text that no key can have
    is refused without asking the database, and of any other the database is asked once.

    Args:
        session: An open transaction.
        secret: The key's text, as somebody typed it.
        hours: How long the browser stays signed in.

    Returns:
        The browser's cookie, or why it gets none.
    """
    if not is_well_formed(secret):
        return KeyRefused("malformed")
    hashed = digest(secret)
    is_current: ColumnElement[bool] = ApiKey.secret_sha256 == hashed
    found = session.execute(
        select(
            ApiKey.id,
            ApiKey.workspace_id,
            ApiKey.revoked_at.is_not(None).label("revoked"),
            func.coalesce(ApiKey.expires_at <= func.now(), False).label("expired"),
            case((is_current, None), else_=ApiKey.previous_expires_at).label("until"),
        ).where(or_(is_current, and_(ApiKey.previous_sha256 == hashed, ApiKey.previous_expires_at > func.now())))
    ).one_or_none()
    if found is None:
        return KeyRefused("unknown")
    if found.revoked:
        return KeyRefused("revoked")
    if found.expired:
        return KeyRefused("expired")
    return open_browser_session(
        session, workspace_id=found.workspace_id, key_id=found.id, hours=hours, until=found.until
    )
