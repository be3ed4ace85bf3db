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
from sqlalchemy import create_engine, select

from service.keys.secrets import find_key_by_secret
from service.local.postgres import USER, EmbeddedPostgres
from service.store.engine import make_sessions
from service.store.tables import ApiKey, Model, SignInLink, Workspace


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    name = f"empty_{secrets.token_hex(6)}"
    with psycopg.connect(host=str(postgres.folder), user=USER, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
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


def test_without_a_database_it_says_what_to_set(tmp_path: Path) -> None:
    result = bootstrap(None, tmp_path)
    assert result.returncode == 2
    assert "FINETOOTH_DATABASE_URL" in result.stderr
