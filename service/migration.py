"""The database's schema: at which revision it is, and how it comes to head."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

import migrations


def alembic_config(url: str) -> Config:
    """Alembic's configuration for the database at `url` (postgresql+psycopg://...), with no ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def migrate(url: str) -> None:
    """Brings the schema to head. Safe to call from several processes at once.

    Raises sqlalchemy.exc.OperationalError if the database cannot be reached or another session holds a table's
    lock for more than 5 s: nothing has changed then; call again.
    """
    command.upgrade(alembic_config(url), "head")


@cache
def _revisions() -> frozenset[str]:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    return frozenset(script.revision for script in scripts.walk_revisions())


def is_of_newer_code(revision: str | None) -> bool:
    """Whether the revision is one that this code does not know: a newer version has migrated the database."""
    return revision is not None and revision not in _revisions()


@cache
def head_revision() -> str:
    """The revision this code was written for; read from the files of all revisions, so once a process."""
    head = ScriptDirectory(str(Path(migrations.__file__).parent)).get_current_head()
    assert head is not None
    return head


def database_revision(connection: Connection) -> str | None:
    """The revision the database is at; None before the first migration."""
    return MigrationContext.configure(connection).get_current_revision()
