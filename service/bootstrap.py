"""What an operator runs where the laptop stack does not: `python -m service.bootstrap [...]`.

Without arguments: brings the schema to head and makes the workspace and its first admin key, as often as it is run.
The key is that of FINETOOTH_ADMIN_KEY, or else, where no admin key of the workspace works, a new one: it goes to a file
in the data folder and never to the output, which containers keep as a log.
`new-key` makes another admin key and writes it to that file.
`generate-key` prints a key for FINETOOTH_ADMIN_KEY, which nothing knows yet, and needs no database.
`own-database`, with PGUSER and PGPASSWORD of a superuser, makes the role of FINETOOTH_DATABASE_URL the owner of its
database.
`sign-in-link URL` prints a one-time link for a browser that reaches the service at URL.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from service.http.auth.key_format import is_well_formed, new_key
from service.keys.secrets import adopt_key, create_sign_in_link, find_key_by_secret, oldest_admin_key
from service.local.admin_key import NAME, admin_key_file, admin_key_of_file, make_admin_key
from service.migration import NewerSchemaError, migrate
from service.settings import BadSettingsError, Settings, ensure_folder, settings_or_exit
from service.store.application_role import RoleIsSuperuserError, own_database
from service.store.engine import DatabaseUnreachableError, check_reachable, make_engine, make_sessions
from service.store.seed import ensure_workspace

USAGE = "usage: python -m service.bootstrap [own-database | sign-in-link https://HOST | new-key | generate-key]"
"""What is shown after a wrong call."""


def main(arguments: list[str], settings: Settings) -> int:
    """Run one command of an operator.

    Args:
        arguments: What was given on the command line.
        settings: The settings of the installation.

    Returns:
        Exit code: 0, 2 for a wrong call or setting, 1 where the database refuses what is to be done.
    """
    if arguments == ["generate-key"]:
        print(new_key())  # noqa: T201
        return 0
    if settings.database_url is None:
        return _refuse("set FINETOOTH_DATABASE_URL to the database to prepare")
    url = settings.database_url.get_secret_value()
    try:
        match arguments:
            case []:
                prepare(url, settings)
            case ["own-database"] if not os.environ.get("PGUSER"):
                return _refuse("set PGUSER and PGPASSWORD to a superuser of the database's server")
            case ["own-database"]:
                give_database(url)
            case ["new-key"]:
                make_new_key(url, settings)
            case ["sign-in-link", base] if _is_address(base):
                print(sign_in_link(url, settings, base.rstrip("/")))  # noqa: T201
            case _:
                return _refuse(USAGE)
    except (BadSettingsError, DatabaseUnreachableError, NewerSchemaError) as error:
        return _refuse(str(error))
    except RoleIsSuperuserError:
        return _refuse("FINETOOTH_DATABASE_URL names the superuser of PGUSER: give the service a role of its own there")
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        print(f"the database's server refuses its superuser: {reason}", file=sys.stderr)  # noqa: T201
        return 1
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        print(f"the database of FINETOOTH_DATABASE_URL refuses: {reason}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def prepare(url: str, settings: Settings) -> None:
    """Bring the schema up to date, and make the first workspace and its admin key where they are missing.

    Args:
        url: Address of the database, for SQLAlchemy.
        settings: The settings of the installation.
    """
    ensure_folder(settings, settings.data_dir)
    with _session(url, settings):
        pass  # reachable: migrations would not say so in one line
    migrate(url)
    with _session(url, settings) as session:
        _, place = _admin_key(session, settings)
    print(f"The schema is up to date. {place}")  # noqa: T201


def make_new_key(url: str, settings: Settings) -> None:
    """Make one more admin key and put it into the file, for operators who have lost theirs.

    Args:
        url: Address of the database, for SQLAlchemy.
        settings: The settings of the installation.
    """
    ensure_folder(settings, settings.data_dir)
    with _session(url, settings) as session:
        workspace = ensure_workspace(session)
        make_admin_key(session, workspace_id=workspace.id, path=admin_key_file(settings))
    print(f"A new admin key is in {admin_key_file(settings)}. Revoke the old one if somebody may have it.")  # noqa: T201


def give_database(url: str) -> None:
    """Makes the URL's role the plain owner of its database. Raises psycopg.Error and RoleIsSuperuserError."""
    parts = make_url(url)
    _, given = parts.get_dialect()().create_connect_args(parts)
    # libpq finds the superuser's in its own variables.
    server = {name: value for name, value in given.items() if name not in ("user", "password")}
    with psycopg.connect(**server, connect_timeout=10, autocommit=True) as superuser:
        own_database(superuser, parts.username or "", password=parts.password)
    print("The database belongs to the service's role.")  # noqa: T201


def sign_in_link(url: str, settings: Settings, base: str) -> str:
    """Make a sign-in link with the rights of the admin key: the one given, else the file's, else the oldest.

    Args:
        url: Address of the database, for SQLAlchemy.
        settings: The settings of the installation.
        base: Address of the service, without a slash at its end.

    Returns:
        The link.
    """
    with _session(url, settings) as session:
        key_id, _ = _admin_key(session, settings)
        token = create_sign_in_link(session, key_id=key_id, minutes=settings.sign_in_link_minutes)
    return f"{base}/sign-in?token={token}"


@contextmanager
def _session(url: str, settings: Settings) -> Iterator[Session]:
    """One transaction on a connection of its own."""
    engine = make_engine(url, pooler=settings.database_pooler, application_name="finetooth-bootstrap")
    try:
        check_reachable(engine)
        with make_sessions(engine).begin() as session:
            yield session
    finally:
        engine.dispose()


def _admin_key(session: Session, settings: Settings) -> tuple[str, str]:
    """The id of an admin key of the first workspace, and where its text is, in words. One is made where none works.

    Several hosts may do it at once: `ensure_workspace` lets one after the other.
    """
    workspace = ensure_workspace(session)
    if settings.admin_key is not None:
        secret = settings.admin_key.get_secret_value()
        if not is_well_formed(secret):
            raise BadSettingsError("FINETOOTH_ADMIN_KEY is no key: a character of it is wrong")
        key = find_key_by_secret(session, secret) or adopt_key(
            session, secret, workspace_id=workspace.id, name=NAME, scopes=["admin"]
        )
        if key is None or key.workspace_id != workspace.id or "admin" not in key.scopes:
            raise BadSettingsError("FINETOOTH_ADMIN_KEY is a key that was revoked, has expired, or is no admin's")
        return key.id, "The admin key is that of FINETOOTH_ADMIN_KEY."
    path = admin_key_file(settings)
    key_id = admin_key_of_file(session, path)
    if key_id is None:
        key_id = oldest_admin_key(session, workspace_id=workspace.id)
        if key_id is not None:
            return key_id, "An admin key works already; `python -m service.bootstrap new-key` makes another."
        ensure_folder(settings, settings.data_dir)
        key_id, _ = make_admin_key(session, workspace_id=workspace.id, path=path)
    return key_id, f"The admin key is in {path}."


def _is_address(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.netloc) and not parts.query


def _refuse(reason: str) -> int:
    print(reason, file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], settings_or_exit()))
