"""The service's role owns its database and nothing else, also where an older version made all of it as superuser."""

from pathlib import Path

import psycopg
import pytest
from alembic import command

from service.local.postgres import DATABASE, SUPERUSER, USER, EmbeddedPostgres
from service.migration import alembic_config, migrate
from service.store.application_role import READING_ROLE, RoleIsSuperuserError, own_database

OWNERS = """
    SELECT relname, relowner::regrole::text FROM pg_class
    WHERE relnamespace IN ('public'::regnamespace, 'bi'::regnamespace) AND relkind IN ('r', 'v', 'S', 'i')
    UNION ALL SELECT proname, proowner::regrole::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT nspname, nspowner::regrole::text FROM pg_namespace WHERE nspname = 'bi'
    UNION ALL SELECT datname, datdba::regrole::text FROM pg_database WHERE datname = current_database()
"""


def connect(server: EmbeddedPostgres, user: str) -> psycopg.Connection:
    return psycopg.connect(host=str(server.folder), user=user, dbname=DATABASE, autocommit=True)


@pytest.fixture
def server(short_folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(short_folder / "postgres", log=short_folder / "log")


def test_it_may_do_nothing_outside_its_database(database_url: str, tmp_path: Path) -> None:
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        rights = "rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
        assert connection.execute(f"SELECT {rights} FROM pg_roles WHERE rolname = current_user").fetchone() == (
            False, False, False, False, False,
        )  # fmt: skip
        for statement in (
            f"COPY (SELECT 1) TO PROGRAM 'touch {tmp_path}/ran'",
            f"COPY (SELECT 1) TO '{tmp_path}/ran'",
            "SELECT pg_read_file('postgresql.conf')",
            "CREATE ROLE another SUPERUSER",
            "ALTER SYSTEM SET log_statement = 'all'",
            f"SET ROLE {SUPERUSER}",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_an_older_version_is_handed_over_at_its_next_start(server: EmbeddedPostgres) -> None:
    server.start()
    try:
        with connect(server, SUPERUSER) as older:
            # As it was then: no such role, and everything made by the superuser.
            older.execute(f"ALTER DATABASE {DATABASE} OWNER TO {SUPERUSER}; DROP OWNED BY {USER}; DROP ROLE {USER}")
        migrate(server.url(user=SUPERUSER))
        with connect(server, SUPERUSER) as older:
            older.execute("CREATE SEQUENCE kept; CREATE TABLE own (id bigint GENERATED ALWAYS AS IDENTITY, s serial)")
            owners = older.execute(OWNERS).fetchall()
        assert len(owners) > 50
        assert {owner for _, owner in owners} == {SUPERUSER}
        for _ in range(2):
            server.stop()
            server.start()
            with connect(server, USER) as newer:
                owners = newer.execute(OWNERS).fetchall()
                assert len(owners) > 50
                assert {owner for _, owner in owners} == {USER}
                # Who read the views before still does.
                newer.execute("CREATE TABLE one AS SELECT 1 AS value")
                newer.execute("DROP TABLE one")
                assert newer.execute(
                    f"SELECT has_table_privilege('{READING_ROLE}', 'bi.findings', 'SELECT')"
                ).fetchone() == (True,)
        with connect(server, USER) as newer:
            newer.execute("DROP TABLE own; DROP SEQUENCE kept")
        config = alembic_config(server.url())
        command.downgrade(config, "base")
        command.upgrade(config, "head")
    finally:
        server.stop()


def test_a_password_is_kept_as_a_hash_and_the_superuser_is_no_role_for_the_service(server: EmbeddedPostgres) -> None:
    server.start()
    try:
        with connect(server, SUPERUSER) as superuser:
            own_database(superuser, USER, password="it's \\ secret")
            (kept,) = superuser.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (USER,)).fetchone() or (
                "",
            )
            assert kept.startswith("SCRAM-SHA-256$")
            with pytest.raises(RoleIsSuperuserError):
                own_database(superuser, SUPERUSER)
    finally:
        server.stop()
