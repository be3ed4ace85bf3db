"""How Alembic reaches the database: online only, one transaction, short lock waits."""

import time

from alembic import context
from sqlalchemy import Engine, NullPool, create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from migrations import OLDEST_CODE
from service.settings import settings_or_exit
from service.store.tables import Base

LOCK_TIMEOUT = "5s"
"""A migration that cannot get its lock fails and is run again; it never queues every other query behind itself."""

DEADLOCK_DETECTED = "40P01"
"""SQLSTATE of a transaction that the database ended because it and another one waited for each other."""

MAX_ATTEMPTS = 5
"""A migration locks many tables, in an order that is not that of the service's transactions; so where one of them ends
it by a deadlock, it begins again."""

MIGRATION_LOCK = 0x66_74_6F_6F_74_68
"""Advisory lock key ("ftooth"): two processes that start at once migrate one after the other."""


def database_url() -> str:
    """The URL that the caller put into the configuration, else the settings' one (plain `alembic` commands)."""
    url = context.config.attributes.get("url")
    if url is not None:
        return str(url)
    configured = settings_or_exit().database_url
    if configured is None:
        raise SystemExit("Set FINETOOTH_DATABASE_URL to the database to migrate.")
    return configured.get_secret_value()


def run() -> None:
    """Runs what the command asked for, once more after a deadlock."""
    engine = create_engine(
        database_url(),
        poolclass=NullPool,
        # A statement that stayed prepared would meet the next one who gets the server connection from a pooler.
        connect_args={"application_name": "finetooth-migrate", "connect_timeout": 10, "prepare_threshold": None},
    )
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            run_in_one_transaction(engine)
            break
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != DEADLOCK_DETECTED or attempt == MAX_ATTEMPTS:
                raise
            time.sleep(attempt / 10)
    engine.dispose()


def run_in_one_transaction(engine: Engine) -> None:
    """Runs what the command asked for; after an error nothing of it remains."""
    with engine.connect() as connection, connection.begin():
        # Taken before lock_timeout is set: waiting for another process's migration may take long.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            compare_type=True,
            compare_server_default=True,
        )
        context.run_migrations()
        if inspect(connection).has_table("alembic_version"):
            # For older code, which knows nothing of these revisions.
            connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{OLDEST_CODE}'"))


if context.is_offline_mode():
    raise SystemExit("Offline mode (--sql) is not supported: migrations need a database.")
run()
