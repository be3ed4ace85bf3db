"""Causes of database errors against a real Postgres: told apart, in our own words, and without what is secret."""

import secrets
import socket
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from service.local.postgres import SUPERUSER, EmbeddedPostgres
from service.store.database_errors import cause_of
from service.store.engine import make_engine

SECRET = "Xylophone-Quokka"


def cause(url: str, statement: str = "SELECT 1") -> str:
    engine = make_engine(url, pool_size=1, application_name="test")
    try:
        with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()
    found = cause_of(caught.value)
    assert "\n" not in found
    assert SECRET not in found
    return found


def test_a_database_or_a_role_that_is_not_there(postgres: EmbeddedPostgres) -> None:
    assert cause(postgres.url(f"none_{SECRET}")) == "3D000, it has no database of this name"
    assert cause(postgres.url("postgres", user=SECRET)).startswith("28000, ")


def test_no_connection_left(postgres: EmbeddedPostgres) -> None:
    role, database = f"role_{secrets.token_hex(4)}", "postgres"
    server = {"host": str(postgres.folder), "user": SUPERUSER, "dbname": database}
    with psycopg.connect(**server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
        try:
            assert cause(postgres.url(database, user=role)) == "53300, it has no connection left (max_connections)"
        finally:
            connection.execute(f"DROP ROLE {role}")


def test_nothing_listens_or_the_name_is_unknown_or_the_socket_is_gone(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    refused = f"postgresql+psycopg://u:{SECRET}@127.0.0.1:{port}/x"
    assert cause(refused) == "nothing listens at its address"
    assert cause(f"postgresql+psycopg://u:{SECRET}@no-such-host.invalid/x") == "its host name is unknown"
    gone = make_url("postgresql+psycopg://u@/x").update_query_dict({"host": str(tmp_path)})
    assert cause(gone.render_as_string()) == "its socket is not there"


def test_errors_of_statements_are_called_by_their_condition(database_url: str) -> None:
    assert cause(database_url, f"SELECT '{SECRET}'::int") == "22P02, InvalidTextRepresentation"
    assert cause(database_url, f'SELECT * FROM "{SECRET}"') == "42P01, UndefinedTable"
    assert cause(database_url, "DO $$ BEGIN RAISE SQLSTATE 'ZZ999'; END $$") == "ZZ999, an error without a name"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (f'FATAL:  password authentication failed for user "{SECRET}"', "28P01, it refuses the password"),
        (f'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "{SECRET}"', "28000, it refuses the role"),
        ("FATAL:  the database system is starting up", "57P03, it is starting"),
        ("FATAL:  unsupported startup parameter: options", "08P01, a pooler in between"),
        ("connection timeout expired", "its address does not answer in time"),
        ("SSL error: certificate verify failed", "it does not agree on TLS"),
        (SECRET, "OperationalError"),
    ],
)
def test_what_libpq_says_before_a_connection_stands(said: str, cause: str) -> None:
    assert cause_of(psycopg.OperationalError(said)).startswith(cause)
