"""The database's schema: at which revision it is, how it comes to head, and which code runs on it.

While an upgrade is under way, or was taken back, older code meets a newer schema. It runs there as long as the
revisions after its own only add what it need not know of. The newer code knows which code that is, and writes it into
the database as it migrates (migrations.OLDEST_CODE).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import migrations
from service.store.engine import make_engine


class NewerSchemaError(Exception):
    """A newer version has migrated the database, and this one does not run there; the message says what to do."""


@dataclass(frozen=True)
class Unfit:
    """Why this code does not run on the database's schema, in a sentence that says what to do."""

    code_is_older: bool
    detail: str


def alembic_config(url: str) -> Config:
    """Alembic's configuration for the database at `url` (postgresql+psycopg://...), with no ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def migrate(url: str) -> None:
    """Brings the schema to head; leaves a newer one that this code runs on. Several processes may call it at once.

    Raises:
        NewerSchemaError: The schema is newer than this code runs on.
        sqlalchemy.exc.OperationalError: The database cannot be reached, or another session holds a table's lock for
            more than 5 s: nothing has changed then; call again.
    """
    # Its bounds and prepared statements are nobody's concern here: right behind any pooler.
    engine = make_engine(url, pool_size=1, pooler="transaction", application_name="finetooth-migrate")
    try:
        with engine.connect() as connection:
            newer = database_revision(connection) not in {None, *_revisions()}
            unfit = why_unfit(connection) if newer else None
    finally:
        engine.dispose()
    if unfit is not None:
        raise NewerSchemaError(unfit.detail)
    if not newer:
        command.upgrade(alembic_config(url), "head")


@cache
def _revisions() -> frozenset[str]:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    return frozenset(script.revision for script in scripts.walk_revisions())


@cache
def head_revision() -> str:
    """The revision this code was written for; read from the files of all revisions, so once a process."""
    head = ScriptDirectory(str(Path(migrations.__file__).parent)).get_current_head()
    assert head is not None
    return head


def database_revision(connection: Connection) -> str | None:
    """The revision the database is at; None before the first migration."""
    return MigrationContext.configure(connection).get_current_revision()


def why_unfit(connection: Connection) -> Unfit | None:
    """Why this code does not run on the database's schema; None: it does."""
    head, revision = head_revision(), database_revision(connection)
    if revision == head:
        return None
    if revision is None or revision in _revisions():
        return Unfit(False, f"The schema is at {revision or 'nothing'}, this version needs {head}: run its migrations.")
    oldest = connection.scalar(text("SELECT obj_description('alembic_version'::regclass)"))
    # Revisions are a line: whoever knows one is at it or after it.
    if oldest in _revisions():
        return None
    runs = f"runs with versions from {oldest} on" if oldest else "says of no older version that it runs on it"
    return Unfit(True, f"The schema is at {revision} and {runs}; this version is at {head}: start a newer one.")
