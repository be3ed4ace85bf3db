"""`python -m service.bootstrap`, as the compose file's migrate service runs it, on an empty real database."""

import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest
from sqlalchemy import create_engine, delete, func, make_url, select, update

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


def bootstrap(
    url: str | None, data_dir: Path, *arguments: str, given: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FINETOOTH_")}
    environment |= {"FINETOOTH_DATA_DIR": str(data_dir), **given}
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


def admin_keys(url: str) -> list[ApiKey]:
    engine = create_engine(url)
    try:
        with make_sessions(engine)() as session:
            return list(session.scalars(select(ApiKey).order_by(ApiKey.id)))
    finally:
        engine.dispose()


def test_a_host_without_the_file_makes_no_second_key_and_can_make_a_link(empty_database: str, tmp_path: Path) -> None:
    assert bootstrap(empty_database, tmp_path / "first").returncode == 0
    second = bootstrap(empty_database, tmp_path / "second")
    assert (second.returncode, "new-key" in second.stdout) == (0, True)
    assert not (tmp_path / "second" / "admin.key").exists()
    link = bootstrap(empty_database, tmp_path / "second", "sign-in-link", "https://audits.example.org")
    assert "/sign-in?token=" in link.stdout
    assert len(admin_keys(empty_database)) == 1


def test_two_first_starts_at_once_make_one_key(empty_database: str, tmp_path: Path) -> None:
    assert bootstrap(empty_database, tmp_path / "schema").returncode == 0
    engine = create_engine(empty_database)
    with make_sessions(engine).begin() as session:
        session.execute(delete(ApiKey))
    engine.dispose()
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda name: bootstrap(empty_database, tmp_path / name), ("a", "b")))
    assert [result.returncode for result in done] == [0, 0]
    assert len(admin_keys(empty_database)) == 1


def test_whoever_has_lost_the_key_asks_for_another(empty_database: str, tmp_path: Path) -> None:
    assert bootstrap(empty_database, tmp_path).returncode == 0
    lost = (tmp_path / "admin.key").read_text()
    (tmp_path / "admin.key").unlink()
    result = bootstrap(empty_database, tmp_path, "new-key")
    assert (result.returncode, result.stderr) == (0, "")
    secret = (tmp_path / "admin.key").read_text()
    assert secret != lost
    assert secret.strip() not in result.stdout
    assert len(admin_keys(empty_database)) == 2


def test_a_revoked_key_is_replaced(empty_database: str, tmp_path: Path) -> None:
    assert bootstrap(empty_database, tmp_path).returncode == 0
    engine = create_engine(empty_database)
    with make_sessions(engine).begin() as session:
        session.execute(update(ApiKey).values(revoked_at=func.now()))
    engine.dispose()
    lost = (tmp_path / "admin.key").read_text()
    assert bootstrap(empty_database, tmp_path).returncode == 0
    assert (tmp_path / "admin.key").read_text() != lost
    assert [key.revoked_at is None for key in admin_keys(empty_database)] == [False, True]


@pytest.mark.parametrize("from_file", [False, True])
def test_the_first_key_from_a_secret(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_file: bool
) -> None:
    secret = bootstrap(None, tmp_path, "generate-key").stdout.strip()
    given = {"FINETOOTH_ADMIN_KEY": secret}
    if from_file:
        (tmp_path / "key").write_text(secret + "\n")
        given = {"FINETOOTH_ADMIN_KEY_FILE": str(tmp_path / "key")}
    for host in ("a", "b"):
        result = bootstrap(empty_database, tmp_path / host, given=given)
        assert (result.returncode, result.stderr) == (0, "")
        assert secret not in result.stdout
        assert not (tmp_path / host / "admin.key").exists()
    (key,) = admin_keys(empty_database)
    engine = create_engine(empty_database)
    with make_sessions(engine).begin() as session:
        found = find_key_by_secret(session, secret)
        assert found is not None
        assert (found.id, found.scopes) == (key.id, ["admin"])
        session.execute(update(ApiKey).values(revoked_at=func.now()))
    engine.dispose()
    refused = bootstrap(empty_database, tmp_path / "a", given=given)
    assert (refused.returncode, "revoked" in refused.stderr, secret in refused.stderr) == (2, True, False)


def test_a_mistyped_key_is_refused(empty_database: str, tmp_path: Path) -> None:
    wrong = "ft_" + 28 * "0"
    result = bootstrap(empty_database, tmp_path, given={"FINETOOTH_ADMIN_KEY": wrong})
    assert (result.returncode, "FINETOOTH_ADMIN_KEY" in result.stderr, wrong in result.stderr) == (2, True, False)
    assert admin_keys(empty_database) == []
