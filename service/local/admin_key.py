"""The laptop's first admin key: in a file of mode 0600, made anew where the file is lost or its key no longer works."""

import os
from pathlib import Path

from sqlalchemy.orm import Session

from service.keys.secrets import create_key, find_key_by_secret
from service.settings import Settings

NAME = "laptop admin"
"""What the key is called in the list of keys."""


def admin_key_file(settings: Settings) -> Path:
    """Where the key is kept."""
    return settings.data_dir / "admin.key"


def ensure_admin_key(session: Session, *, workspace_id: str, path: Path) -> tuple[str, str]:
    """Return the admin key in a file; a new one replaces a file that holds no working key of this database.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        path: Path of the file.

    Returns:
        The key's id and its text.
    """
    key_id = admin_key_of_file(session, path)
    if key_id is not None:
        return key_id, path.read_text().strip()
    return make_admin_key(session, workspace_id=workspace_id, path=path)


def admin_key_of_file(session: Session, path: Path) -> str | None:
    """Return the id of the key in a file; None where there is none, or it does not work in this database.

    Args:
        session: An open transaction.
        path: Path of the file.
    """
    try:
        secret = path.read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    path.chmod(0o600)
    key = find_key_by_secret(session, secret)
    return None if key is None else key.id


def make_admin_key(session: Session, *, workspace_id: str, path: Path) -> tuple[str, str]:
    """Make an admin key and put it in the place of the file `path`.

    Args:
        session: An open transaction.
        workspace_id: Id of the key's workspace.
        path: Is written as a whole or not at all, with mode 0600.

    Returns:
        Id and text of the key.
    """
    key, secret = create_key(session, workspace_id=workspace_id, name=NAME, scopes=["admin"])
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(descriptor)
    new.replace(path)
    return key.id, secret
