"""What an operator runs where the laptop stack does not: `python -m service.bootstrap [...]`.

Without arguments: brings the schema to head and makes the workspace and its first admin key, as often as it is run.
The key goes to a file in the data folder and never to the output, which containers keep as a log.
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

from service.keys.secrets import create_sign_in_link
from service.local.admin_key import admin_key_file, ensure_admin_key
from service.migration import migrate
from service.settings import BadSettingsError, Settings, ensure_folder, settings_or_exit
from service.store.application_role import RoleIsSuperuserError, own_database
from service.store.engine import DatabaseUnreachableError, check_reachable, make_engine, make_sessions
from service.store.seed import ensure_workspace

USAGE = "usage: python -m service.bootstrap [own-database | sign-in-link https://HOST]"


def main(arguments: list[str], settings: Settings) -> int:
    """Exit code: 0, 2 for a wrong call or setting, 1 where the database refuses what is to be done."""
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
            case ["sign-in-link", base] if _is_address(base):
                print(sign_in_link(url, settings, base.rstrip("/")))  # noqa: T201
            case _:
                return _refuse(USAGE)
    except (BadSettingsError, DatabaseUnreachableError) as error:
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
    """Schema, workspace, admin key."""
    ensure_folder(settings, settings.data_dir)
    with _session(url):
        pass  # reachable: migrations would not say so in one line
    migrate(url)
    with _session(url) as session:
        _admin_key_id(session, settings)
    print(f"The schema is up to date. The admin key is in {admin_key_file(settings)}.")  # noqa: T201


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
    """A new link with the rights of the admin key."""
    with _session(url) as session:
        key_id = _admin_key_id(session, settings)
        token = create_sign_in_link(session, key_id=key_id, minutes=settings.sign_in_link_minutes)
    return f"{base}/sign-in?token={token}"


@contextmanager
def _session(url: str) -> Iterator[Session]:
    """One transaction on a connection of its own."""
    engine = make_engine(url, application_name="finetooth-bootstrap")
    try:
        check_reachable(engine)
        with make_sessions(engine).begin() as session:
            yield session
    finally:
        engine.dispose()


def _admin_key_id(session: Session, settings: Settings) -> str:
    workspace = ensure_workspace(session)
    ensure_folder(settings, settings.data_dir)
    key_id, _ = ensure_admin_key(session, workspace_id=workspace.id, path=admin_key_file(settings))
    return key_id


def _is_address(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.netloc) and not parts.query


def _refuse(reason: str) -> int:
    print(reason, file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], settings_or_exit()))
