"""Keys, sign-in links and browser sessions: made, found, ended. Secrets are returned once and stored as hashes."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from service.http.audit_log import record
from service.http.auth.key_format import SHOWN_PREFIX, digest, is_well_formed, new_key, new_token
from service.http.auth.principal_cache import rights_changed
from service.principal import Scope
from service.store.ids import new_id
from service.store.tables import ApiKey, BrowserSession, SignInLink


def create_key(
    session: Session, *, workspace_id: str, name: str, scopes: Sequence[Scope], expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """Create a key with a new text, which nobody can read again.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        name: What people call it.
        scopes: What it may do.
        expires_at: When it ends; None: never.

    Returns:
        The key's row and its text.
    """
    secret = new_key()
    key = _key_of(secret, workspace_id=workspace_id, name=name, scopes=scopes, expires_at=expires_at)
    session.add(key)
    session.flush()
    return key, secret


def adopt_key(session: Session, secret: str, *, workspace_id: str, name: str, scopes: Sequence[Scope]) -> ApiKey | None:
    """Make a key of a text that was made elsewhere.

    Args:
        session: An open transaction.
        secret: The well-formed text.
        workspace_id: Id of the key's workspace.
        name: What people call the key.
        scopes: What it may do.

    Returns:
        The key; None where some key has, or had, this text: one that was revoked does not come back.
    """
    known = ApiKey.secret_sha256 == digest(secret), ApiKey.previous_sha256 == digest(secret)
    if session.scalar(select(ApiKey.id).where(or_(*known))) is not None:
        return None
    key = _key_of(secret, workspace_id=workspace_id, name=name, scopes=scopes, expires_at=None)
    session.add(key)
    session.flush()
    return key


def oldest_admin_key(session: Session, *, workspace_id: str) -> str | None:
    """Return the id of the workspace's oldest key that works and has the scope admin; None if it has none.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
    """
    admins = ApiKey.workspace_id == workspace_id, ApiKey.scopes.contains(["admin"])
    return session.scalars(select(ApiKey.id).where(*admins, *_valid()).order_by(ApiKey.id).limit(1)).one_or_none()


def _key_of(
    secret: str, *, workspace_id: str, name: str, scopes: Sequence[Scope], expires_at: datetime | None
) -> ApiKey:
    return ApiKey(
        id=new_id("key"),
        workspace_id=workspace_id,
        name=name,
        prefix=secret[:SHOWN_PREFIX],
        secret_sha256=digest(secret),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
    )


def find_key_by_secret(session: Session, secret: str) -> ApiKey | None:
    """Return the key that has this text now; None if it was rotated, revoked, has expired, or never was.

    Args:
        session: An open transaction.
        secret: Text of the key.
    """
    if not is_well_formed(secret):
        return None
    return session.scalars(select(ApiKey).where(ApiKey.secret_sha256 == digest(secret), *_valid())).one_or_none()


def rotate_key(session: Session, key: ApiKey, *, overlap_seconds: int = 0) -> str:
    """Give a key a new text.

    Without an overlap the old text ends at once, and so do the key's browser sessions: it may have leaked. With one,
    both go on, the old text until the overlap is over. A text that is older still ends in any case.

    Args:
        session: An open transaction.
        key: The row of the key.
        overlap_seconds: How long the old text works on.

    Returns:
        The new text.
    """
    rights_changed(session)
    secret = new_key()
    if overlap_seconds:
        key.previous_sha256 = key.secret_sha256
        key.previous_expires_at = func.now() + timedelta(seconds=overlap_seconds)
        key.previous_last_used_at = key.last_used_at
    else:
        _forget_previous(key)
        _sign_out_all(session, key)
    key.prefix = secret[:SHOWN_PREFIX]
    key.secret_sha256 = digest(secret)
    key.last_used_at = None
    session.flush()
    return secret


def revoke_key(session: Session, key: ApiKey) -> None:
    """End a key, all its texts, and the browser sessions that it opened. Revoking it again changes nothing.

    Args:
        session: An open transaction.
        key: The row of the key.
    """
    rights_changed(session)
    if key.revoked_at is None:
        key.revoked_at = func.now()
    _forget_previous(key)
    _sign_out_all(session, key)


def _forget_previous(key: ApiKey) -> None:
    key.previous_sha256 = key.previous_expires_at = key.previous_last_used_at = None


def create_sign_in_link(session: Session, *, key_id: str, minutes: int) -> str:
    """Create a link that signs in one browser, once, with the rights of a key.

    Args:
        session: An open transaction.
        key_id: Id of the key.
        minutes: How long the link works.

    Returns:
        The link's token.
    """
    token = new_token()
    workspace_id = session.scalars(select(ApiKey.workspace_id).where(ApiKey.id == key_id)).one()
    session.add(
        SignInLink(
            token_sha256=digest(token),
            workspace_id=workspace_id,
            key_id=key_id,
            expires_at=func.now() + timedelta(minutes=minutes),
        )
    )
    session.flush()
    return token


def redeem_sign_in_link(session: Session, token: str, *, hours: int) -> str | None:
    """Use a link up, and open a browser session.

    Args:
        session: An open transaction.
        token: The link's token.
        hours: How long the session lasts.

    Returns:
        The text of the cookie; None if the link was used before, has expired, or never was.
    """
    used = session.execute(
        update(SignInLink)
        .where(
            SignInLink.token_sha256 == digest(token),
            SignInLink.used_at.is_(None),
            SignInLink.expires_at > func.now(),
            SignInLink.key_id.in_(select(ApiKey.id).where(*_valid())),
        )
        .values(used_at=func.now())
        .returning(SignInLink.workspace_id, SignInLink.key_id)
    ).one_or_none()
    if used is None:
        return None
    return open_browser_session(session, workspace_id=used.workspace_id, key_id=used.key_id, hours=hours)


def open_browser_session(
    session: Session,
    *,
    workspace_id: str,
    key_id: str | None = None,
    user_id: str | None = None,
    hours: int,
    until: datetime | None = None,
) -> str:
    """Sign a browser in with the rights of a key or a person, and return its cookie.

    Args:
        session: An open transaction.
        workspace_id: Id of the key's workspace, or of one in which the person is.
        key_id: A key that works; the session ends with it. None: a person signs in.
        user_id: Who signs in; None: somebody with a key.
        hours: How long the browser stays signed in.
        until: When it is signed out in any case; None: after the hours.
    """
    # A good moment to drop what nobody can use any more.
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= func.now()))
    session.execute(delete(SignInLink).where(SignInLink.expires_at <= func.now()))
    cookie = new_token()
    browser = BrowserSession(
        token_sha256=digest(cookie),
        id=new_id("ses"),
        workspace_id=workspace_id,
        key_id=key_id,
        user_id=user_id,
        expires_at=func.least(func.now() + timedelta(hours=hours), until),
    )
    session.add(browser)
    session.flush()
    record(session, browser, "session.create", browser.id)
    return cookie


def end_browser_session(session: Session, cookie: str) -> None:
    """Sign a browser out; an unknown cookie is no error.

    Args:
        session: An open transaction.
        cookie: The text of its cookie.
    """
    rights_changed(session)
    own = BrowserSession.token_sha256 == digest(cookie)
    browser = session.scalars(delete(BrowserSession).where(own).returning(BrowserSession)).one_or_none()
    if browser is not None:
        record(session, browser, "session.end", browser.id)


def sign_out(session: Session, which: ColumnElement[bool]) -> int:
    """End browser sessions, and return how many they were.

    Args:
        session: An open transaction.
        which: Condition on their rows.
    """
    rights_changed(session)
    return len(session.scalars(delete(BrowserSession).where(which).returning(BrowserSession.id)).all())


def _valid():  # type: ignore[no-untyped-def]
    return ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())


def _sign_out_all(session: Session, key: ApiKey) -> None:
    session.execute(delete(BrowserSession).where(BrowserSession.key_id == key.id))
    session.execute(delete(SignInLink).where(SignInLink.key_id == key.id))
    session.flush()
