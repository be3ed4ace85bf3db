"""Behind a real PgBouncer in transaction mode: what a connection says once is said with each transaction, and holds."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from service.local.postgres import EmbeddedPostgres
from service.migration import database_revision, head_revision
from service.store.database_errors import cause_of
from service.store.engine import make_engine
from tests.support.pgbouncer import pgbouncer, through


@pytest.fixture
def pooled_url(postgres: EmbeddedPostgres, database_url: str) -> Iterator[str]:
    """By way of a pooler with one server connection, which all share."""
    with pgbouncer(postgres, pool_size=1) as port:
        yield through(port, database_url)


@pytest.fixture
def bounded(pooled_url: str) -> Iterator[Engine]:
    """An engine as the API has it, with short times."""
    engine = make_engine(
        pooled_url,
        statement_timeout_ms=300,
        idle_transaction_seconds=1.5,
        pooler="transaction",
        application_name="bounded",
    )
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("isolation", "shown"),
    [
        ("READ COMMITTED", "read committed"),
        ("AUTOCOMMIT", "read committed"),
        ("REPEATABLE READ", "repeatable read"),
    ],
)
def test_statements_end_after_their_time(bounded: Engine, isolation: str, shown: str) -> None:
    with bounded.execution_options(isolation_level=isolation).connect() as connection:
        assert connection.scalar(text("SHOW transaction_isolation")) == shown
        began = time.monotonic()
        with pytest.raises(OperationalError) as caught:
            connection.execute(text("SELECT pg_sleep(20)"))
    assert isinstance(caught.value.orig, psycopg.errors.QueryCanceled)
    assert time.monotonic() - began < 10


def test_the_time_holds_for_who_set_it_alone(bounded: Engine, pooled_url: str) -> None:
    """Workers have none, on the very server connection that the API had before."""
    unbounded = make_engine(pooled_url, pooler="transaction", application_name="unbounded")
    for _ in range(2):
        with bounded.begin() as connection:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            assert connection.scalar(text("SHOW statement_timeout")) == "300ms"
        with unbounded.begin() as connection:
            assert connection.scalar(text("SELECT pg_backend_pid()")) == pid
            connection.execute(text("SELECT pg_sleep(0.6)"))
    unbounded.dispose()


def test_a_transaction_in_which_nothing_happens_is_ended_with_its_locks(bounded: Engine, database_url: str) -> None:
    lock = text("LOCK TABLE workspaces NOWAIT")
    direct = make_engine(database_url, application_name="direct")
    with bounded.connect() as connection:
        connection.execute(lock)
        with pytest.raises(OperationalError), direct.begin() as other:
            other.execute(lock)
        with direct.begin() as other:
            # The lock goes while its holder says nothing.
            other.execute(text("SET LOCAL lock_timeout = '20s'"))
            other.execute(text("LOCK TABLE workspaces"))
        with pytest.raises(DBAPIError) as caught:
            connection.execute(text("SELECT 1"))
    direct.dispose()
    assert isinstance(caught.value.orig, psycopg.Error)
    assert caught.value.orig.sqlstate == "25P03"  # which the API answers with 503
    with bounded.begin() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_times_are_in_utc_whatever_zone_the_database_has(bounded: Engine, database_url: str) -> None:
    url = make_url(database_url)
    with psycopg.connect(url.set(drivername="postgresql").render_as_string(False)) as connection:
        connection.execute(f"ALTER DATABASE {url.database} SET timezone TO 'Asia/Kathmandu'")
    for isolation in ("READ COMMITTED", "AUTOCOMMIT"):
        with bounded.execution_options(isolation_level=isolation).connect() as connection:
            now = connection.scalar(text("SELECT now()"))
            assert now is not None
            assert now.utcoffset() == timedelta(0)


def test_no_statement_stays_prepared(bounded: Engine) -> None:
    """The next transaction may meet another server connection, where it is not known or another one has its name."""
    for number in range(12):
        with bounded.begin() as connection:
            assert connection.scalar(text("SELECT CAST(:number AS int)"), {"number": number}) == number
    with bounded.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0


@pytest.mark.parametrize("ignored", ["", "options"])
def test_a_pooler_that_nobody_was_told_of_is_found_out(
    postgres: EmbeddedPostgres, database_url: str, ignored: str
) -> None:
    """Also where it drops what bounds our statements without a word: they would be bounded by nothing."""
    with pgbouncer(postgres, pool_size=1, ignored=ignored) as port:
        engine = make_engine(through(port, database_url), statement_timeout_ms=300, application_name="untold")
        with pytest.raises(OperationalError) as caught:
            engine.connect()
        engine.dispose()
    assert cause_of(caught.value).endswith("set FINETOOTH_DATABASE_POOLER=transaction")


def test_migrations_and_the_first_key_by_several_at_once(
    postgres: EmbeddedPostgres, postgres_url: str, tmp_path: Path
) -> None:
    """Five processes on two server connections: locks are the transaction's, none the connection's."""
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE test_pooled_migrations OWNER finetooth_app"))
    try:
        with pgbouncer(postgres, pool_size=2) as port:
            url = through(port, postgres.url("test_pooled_migrations"))
            given = {"FINETOOTH_DATABASE_URL": url, "FINETOOTH_DATABASE_POOLER": "transaction"}
            command = [sys.executable, "-m", "service.bootstrap"]
            running = [
                subprocess.Popen(
                    command, env={**os.environ, **given, "FINETOOTH_DATA_DIR": str(tmp_path / str(number))}
                )
                for number in range(5)
            ]
            assert [process.wait(240) for process in running] == [0] * 5
            engine = make_engine(url, pooler="transaction", application_name="test")
            with engine.connect() as connection:
                assert database_revision(connection) == head_revision()
                assert connection.scalar(text("SELECT count(*) FROM api_keys")) == 1
            engine.dispose()
    finally:
        with server.connect() as connection:
            connection.execute(text("DROP DATABASE test_pooled_migrations WITH (FORCE)"))
        server.dispose()
