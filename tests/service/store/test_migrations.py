"""The migrations make the schema that the tables declare, and can be taken back."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service.store.bootstrap import (
    REGISTERED_MODELS,
    alembic_config,
    database_revision,
    ensure_workspace,
    head_revision,
    migrate,
)
from service.store.engine import make_engine
from service.store.tables import Base, Model, Workspace

ROOT = Path(__file__).parents[3]


def differences(url: str) -> list[object]:
    engine = make_engine(url, application_name="test")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        found = compare_metadata(context, Base.metadata)
    engine.dispose()
    return found


def checks(url: str) -> set[tuple[str, str]]:
    """Every constraint of the database; autogenerate does not compare CHECKs."""
    engine = make_engine(url, application_name="test")
    with engine.connect() as connection:
        query = (
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace AND conname <> 'alembic_version_pkc'"
        )
        found = {(name, definition) for name, definition in connection.execute(text(query))}
    engine.dispose()
    return found


def test_tables_and_migrations_agree(database_url: str) -> None:
    assert differences(database_url) == []


def test_constraints_agree_too(database_url: str) -> None:
    migrated = checks(database_url)
    engine = make_engine(database_url, application_name="test")
    with engine.begin() as connection:
        Base.metadata.drop_all(connection)
        Base.metadata.create_all(connection)
    engine.dispose()
    assert checks(database_url) == migrated


def test_down_to_nothing_and_up_again(database_url: str) -> None:
    engine = make_engine(database_url, application_name="test")
    command.downgrade(alembic_config(database_url), "base")
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    migrate(database_url)
    assert differences(database_url) == []
    with engine.connect() as connection:
        assert database_revision(connection) == head_revision()
    engine.dispose()


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    migrate(database_url)
    assert differences(database_url) == []


def test_processes_that_start_together_migrate_one_after_the_other(database_url: str) -> None:
    command.downgrade(alembic_config(database_url), "base")
    program = "import sys; from service.store.bootstrap import migrate; migrate(sys.argv[1])"
    running = [subprocess.Popen([sys.executable, "-c", program, database_url], cwd=ROOT) for _ in range(3)]
    assert [process.wait(240) for process in running] == [0, 0, 0]
    assert differences(database_url) == []


def test_a_table_in_use_stops_the_migration_within_its_lock_timeout(database_url: str) -> None:
    engine = make_engine(database_url, application_name="test")
    with engine.begin() as holder:
        holder.execute(text("LOCK TABLE scores IN ACCESS SHARE MODE"))
        with pytest.raises(OperationalError, match="lock timeout"):
            command.downgrade(alembic_config(database_url), "base")
    assert differences(database_url) == []
    engine.dispose()


def test_the_installed_package_carries_the_migrations() -> None:
    names = {path.name for path in (ROOT / "migrations").rglob("*.py")}
    assert {"env.py", "0001_first_schema.py", "__init__.py"} <= names
    assert (ROOT / "migrations" / "versions" / "__init__.py").exists()


def test_the_workspace_is_made_once_with_its_models(sessions: sessionmaker[Session]) -> None:
    for _ in range(2):
        with sessions.begin() as session:
            workspace = ensure_workspace(session)
    assert workspace.id.startswith("ws_")
    assert workspace.name == "default"
    with sessions() as session:
        assert session.query(Workspace).count() == 1
        models = {model.name: model for model in session.query(Model)}
    assert set(models) == {"llama-3.1-8b", "smollm2-135m-instruct"} == {model["name"] for model in REGISTERED_MODELS}
    assert models["llama-3.1-8b"].source == "hub"
    assert len(models["llama-3.1-8b"].revision or "") == 40
    assert models["smollm2-135m-instruct"].source == "bundled"


def test_processes_that_start_together_make_one_workspace(sessions: sessionmaker[Session]) -> None:
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        with sessions.begin() as session:
            ensure_workspace(session)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sessions() as session:
        assert session.query(Workspace).count() == 1
        assert session.query(Model).count() == len(REGISTERED_MODELS)
