"""What is done with keys and signed-in browsers: keys are created, rotated and revoked, browsers signed out."""

from sqlalchemy.orm import Session

from service.errors import ConflictError, NotFoundError
from service.http.audit_log import record
from service.keys.queries import find_key, visible_sessions
from service.keys.schemas import KeyCreate, KeyWithSecret, render_key_with_secret
from service.keys.secrets import create_key, revoke_key, rotate_key, sign_out
from service.principal import Principal
from service.store.tables import BrowserSession


def create(session: Session, principal: Principal, body: KeyCreate, *, workspace_id: str) -> KeyWithSecret:
    """Make a key of the workspace; the answer alone holds its text.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: Its name, what it may do, and how long.
        workspace_id: A workspace in which the caller may make keys.
    """
    key, secret = create_key(
        session, workspace_id=workspace_id, name=body.name, scopes=body.scopes, expires_at=body.expires_at
    )
    record(session, principal, "key.create", key.id, workspace_id=workspace_id)
    return render_key_with_secret(key, secret)


def rotate(session: Session, principal: Principal, key_id: str, *, overlap_seconds: int) -> KeyWithSecret:
    """Give a key a new text; the answer alone holds it.

    Args:
        session: An open transaction.
        principal: Who is asking.
        key_id: Which key.
        overlap_seconds: How long the old text still works; 0 ends it at once, with the key's browsers.

    Raises:
        NotFoundError: `key_not_found`.
        ConflictError: `key_revoked`.
    """
    key = find_key(session, principal, key_id)
    if key.revoked_at is not None:
        raise ConflictError("key_revoked", "This key is revoked for good. Create a new one.")
    record(session, principal, "key.rotate", key.id)
    return render_key_with_secret(key, rotate_key(session, key, overlap_seconds=overlap_seconds))


def revoke(session: Session, principal: Principal, key_id: str) -> None:
    """End a key and its browser sessions at once. Idempotent; the key stays in the list.

    Args:
        session: An open transaction.
        principal: Who is asking.
        key_id: Which key.

    Raises:
        NotFoundError: `key_not_found`.
    """
    revoke_key(session, find_key(session, principal, key_id))
    record(session, principal, "key.revoke", key_id)


def end_session(session: Session, principal: Principal, session_id: str) -> None:
    """Sign one browser out.

    Args:
        session: An open transaction.
        principal: Who is asking: may end its own, as an admin the workspace's.
        session_id: Which session.

    Raises:
        NotFoundError: `session_not_found`.
    """
    if not sign_out(session, visible_sessions(principal) & (BrowserSession.id == session_id)):
        raise NotFoundError("session")
    record(session, principal, "session.end", session_id)


def end_other_sessions(session: Session, principal: Principal, *, keep: bytes | None) -> None:
    """Sign out all browsers that the principal may sign out, but for one.

    Args:
        session: An open transaction.
        principal: Who is asking.
        keep: SHA-256 of the cookie of the browser that stays signed in; None: none does.
    """
    others = visible_sessions(principal)
    if keep is not None:
        others &= BrowserSession.token_sha256 != keep
    ended = sign_out(session, others)
    record(session, principal, "session.end_others", None, count=ended)
