"""`python -m service.bootstrap`, as the compose file's migrate service runs it, on an empty real database."""

import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, select

from service.keys.secrets import find_key_by_secret
from service.local.postgres import SUPERUSER, USER, EmbeddedPostgres
from service.store.engine import make_sessions
from service.store.tables import ApiKey, Model, SignInLink, Workspace


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    name = f"empty_{secrets.token_hex(6)}"
    with psycopg.connect(host=str(postgres.folder), user=SUPERUSER, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER {USER}")
        yield postgres.url(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def bootstrap(url: str | None, data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FINETOOTH_")}
    environment["FINETOOTH_DATA_DIR"] = str(data_dir)
    if url is not None:
        environment["FINETOOTH_DATABASE_URL"] = url
    return subprocess.run(
        [sys.executable, "-m", "service.bootstrap", *arguments], capture_output=True, text=True, env=environment
    )


def test_an_empty_database_gets_schema_workspace_and_a_private_working_key(empty_database: str, tmp_path: Path) -> None:
    result = bootstrap(empty_database, tmp_path / "data")
    assert result.returncode == 0, result.stderr
    file = tmp_path / "data" / "admin.key"
    secret = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in result.stdout + result.stderr
    engine = create_engine(empty_database)
    with make_sessions(engine)() as session:
        key = find_key_by_secret(session, secret)
        assert key is not None
        assert key.scopes == ["admin"]
        assert session.scalars(select(Workspace.name)).all() == ["default"]
        assert {"llama-3.1-8b", "smollm2-135m-instruct"} <= set(session.scalars(select(Model.name)))
    engine.dispose()


def test_a_second_run_changes_nothing(empty_database: str, tmp_path: Path) -> None:
    assert bootstrap(empty_database, tmp_path).returncode == 0
    secret = (tmp_path / "admin.key").read_text()
    assert bootstrap(empty_database, tmp_path).returncode == 0
    assert (tmp_path / "admin.key").read_text() == secret
    engine = create_engine(empty_database)
    with make_sessions(engine)() as session:
        assert len(session.scalars(select(ApiKey.id)).all()) == 1
    engine.dispose()


def test_a_sign_in_link_is_printed_alone_and_stored_as_a_hash(empty_database: str, tmp_path: Path) -> None:
    assert bootstrap(empty_database, tmp_path).returncode == 0
    result = bootstrap(empty_database, tmp_path, "sign-in-link", "https://audits.example.org/")
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    base, token = line.split("/sign-in?token=")
    assert base == "https://audits.example.org"
    engine = create_engine(empty_database)
    with make_sessions(engine)() as session:
        (link,) = session.scalars(select(SignInLink)).all()
        assert link.used_at is None
        assert link.token_sha256 != token.encode()
    engine.dispose()


@pytest.mark.parametrize("arguments", [["sign-in-link"], ["sign-in-link", "audits.example.org"], ["help"]])
def test_a_wrong_call_is_refused(database_url: str, tmp_path: Path, arguments: list[str]) -> None:
    result = bootstrap(database_url, tmp_path, *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "usage:" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_superuser_gives_the_database_to_the_role_of_the_address(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, role = f"given_{secrets.token_hex(6)}", f"role_{secrets.token_hex(6)}"
    server = {"host": str(postgres.folder), "user": SUPERUSER, "dbname": "postgres"}
    with psycopg.connect(**server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            url = make_url(postgres.url(name, user=role)).set(password="pa55")
            address = url.render_as_string(hide_password=False)
            unnamed = bootstrap(address, tmp_path, "own-database")
            assert (unnamed.returncode, "PGUSER" in unnamed.stderr) == (2, True)
            monkeypatch.setenv("PGUSER", SUPERUSER)
            for _ in range(2):
                result = bootstrap(address, tmp_path, "own-database")
                assert (result.returncode, result.stderr) == (0, "")
            owner = "SELECT datdba::regrole::text FROM pg_database WHERE datname = %s"
            assert connection.execute(owner, (name,)).fetchone() == (role,)
            assert bootstrap(address, tmp_path).returncode == 0
            same = bootstrap(postgres.url(name, user=SUPERUSER), tmp_path, "own-database")
            assert (same.returncode, "role of its own" in same.stderr) == (2, True)
            monkeypatch.setenv("PGUSER", "nobody-here")
            refused = bootstrap(address, tmp_path, "own-database")
            assert (refused.returncode, "refuses" in refused.stderr, "pa55" in refused.stderr) == (1, True, False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            connection.execute(f"DROP ROLE IF EXISTS {role}")


def test_without_a_database_it_says_what_to_set(tmp_path: Path) -> None:
    result = bootstrap(None, tmp_path)
    assert result.returncode == 2
    assert "FINETOOTH_DATABASE_URL" in result.stderr
