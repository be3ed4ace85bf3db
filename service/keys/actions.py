"""What admins do with keys: create, rotate and revoke them."""

from sqlalchemy.orm import Session

from service.errors import ConflictError
from service.keys.queries import find_key
from service.keys.schemas import KeyCreate, KeyWithSecret, render_key_with_secret
from service.keys.secrets import create_key, revoke_key, rotate_key
from service.principal import Principal


def create(session: Session, workspace_id: str, body: KeyCreate) -> KeyWithSecret:
    """Make a key of the workspace; the answer alone holds its text.

    Args:
        session: An open transaction.
        workspace_id: A workspace in which the caller may make keys.
        body: Its name, what it may do, and how long.
    """
    key, secret = create_key(
        session, workspace_id=workspace_id, name=body.name, scopes=body.scopes, expires_at=body.expires_at
    )
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
