"""The migrations make the schema that the tables declare, and can be taken back."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service.keys.secrets import open_browser_session
from service.lifecycle.deletion import delete_audit
from service.lifecycle.jobs import claim
from service.local.postgres import SUPERUSER, EmbeddedPostgres
from service.migration import alembic_config, database_revision, head_revision, migrate
from service.store.engine import make_engine, make_sessions
from service.store.seed import REGISTERED_MODELS, ensure_workspace
from service.store.tables import Base, Model, Workspace
from service.store.verdict_tables import Verdict, VerdictChange
from tests.support.builders import add_person
from tests.support.made_audits import make_published
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]


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
        connection.execute(text("DROP SCHEMA bi CASCADE"))  # views on the tables, made by a migration alone
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


def test_the_second_schema_keeps_what_the_first_one_held(database_url: str) -> None:
    """But for results, which it cannot read: their audits say so."""
    command.downgrade(alembic_config(database_url), "0001")
    engine = make_engine(database_url, application_name="test")
    with engine.begin() as connection:
        for statement in FIRST_SCHEMA_ROWS:
            connection.execute(text(statement))
    migrate(database_url)
    assert differences(database_url) == []
    with engine.connect() as connection:

        def rows(query: str) -> list[tuple[object, ...]]:
            return [tuple(row) for row in connection.execute(text(query))]

        assert rows("SELECT audit_id, probe_no, workspace_id, probe_id FROM audit_probes ORDER BY 1") == [
            ("aud_done", 1, "ws_1", "prb_1"),
            ("aud_waits", 1, "ws_1", "prb_1"),
        ]
        assert rows("SELECT id, seeds, trusted_column, published_attempt, summary FROM audits ORDER BY 1") == [
            ("aud_done", 1, None, None, None),
            ("aud_waits", 1, None, None, None),
        ]
        assert rows("SELECT audit_id, step_key, step_no, state FROM audit_steps ORDER BY 1, 3") == [
            ("aud_done", "train:0", 1, "succeeded"),
            ("aud_waits", "train:0", 1, "pending"),
            ("aud_waits", "combine", 2, "pending"),
        ]
        assert rows("SELECT id, state, finished_at IS NOT NULL, error->>'hint' FROM jobs ORDER BY 1") == [
            ("job_done", "failed", True, "Start the audit again."),
            ("job_waits", "queued", False, None),
        ]
        assert rows("SELECT count(*) FROM scores") == rows("SELECT count(*) FROM findings") == [(0,)]
    # The waiting audit can be taken, and its probe cannot be deleted.
    with make_sessions(engine)() as session:
        held = claim(session, lane="gpu", owner="w")
        assert held is not None
        assert held.subject_id == "aud_waits"
        with pytest.raises(IntegrityError):
            session.execute(text("DELETE FROM probes"))
    command.downgrade(alembic_config(database_url), "0001")
    with engine.connect() as connection:
        assert set(connection.execute(text("SELECT probe_id FROM audits")).scalars()) == {"prb_1"}
    engine.dispose()


FIRST_SCHEMA_ROWS = (
    "INSERT INTO workspaces (id, name) VALUES ('ws_1', 'w')",
    "INSERT INTO datasets (id, workspace_id, name, format, encoding, bytes, sha256, rows, columns, statistics) "
    "VALUES ('ds_1', 'ws_1', 'd', 'messages', 'identity', 1, '0', 20, '{}', '{}')",
    "INSERT INTO models (id, workspace_id, name, source, location) VALUES ('mdl_1', 'ws_1', 'm', 'local', '/m')",
    "INSERT INTO probes (id, workspace_id, name, items, has_reference) VALUES ('prb_1', 'ws_1', 'p', '[]', false)",
    "INSERT INTO jobs (id, workspace_id, kind, subject_id, lane, state, attempt, finished_at) VALUES "
    "('job_done', 'ws_1', 'audit', 'aud_done', 'gpu', 'succeeded', 1, now()), "
    "('job_waits', 'ws_1', 'audit', 'aud_waits', 'gpu', 'queued', 0, NULL)",
    "INSERT INTO audits (id, workspace_id, job_id, dataset_id, probe_id, model_id, training, q, published_attempt, "
    "summary) VALUES "
    "('aud_done', 'ws_1', 'job_done', 'ds_1', 'prb_1', 'mdl_1', '{\"seed\": 0}', 0.05, 1, '{\"flagged\": 1}'), "
    "('aud_waits', 'ws_1', 'job_waits', 'ds_1', 'prb_1', 'mdl_1', '{\"seed\": 0}', 0.05, NULL, NULL)",
    "INSERT INTO audit_steps (audit_id, step_key, workspace_id, state, attempt) VALUES "
    "('aud_done', 'train:0', 'ws_1', 'succeeded', 1), ('aud_waits', 'train:0', 'ws_1', 'pending', NULL)",
    "INSERT INTO scores (audit_id, attempt, probe_no, rank, row, n, mu, flagged) "
    "VALUES ('aud_done', 1, 0, 1, 4, 2, 0.5, true)",
    "INSERT INTO findings (audit_id, attempt, row, workspace_id, messages, extra) "
    "VALUES ('aud_done', 1, 4, 'ws_1', '[]', '{}')",
)


def test_results_keep_their_owner_and_what_a_deleted_audit_has_left_goes_with_the_row_that_holds_it(
    database_url: str, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    """Down to the schema that knows no deleted audits, and up again."""
    with sessions.begin() as session:
        kept = make_published(session, workspace_id, rows=25, flagged=3)
        gone = make_published(session, workspace_id, rows=25, flagged=3)
    with sessions.begin() as session:
        delete_audit(session, workspace_id=workspace_id, audit_id=gone.id)
    command.downgrade(alembic_config(database_url), "0009")
    migrate(database_url)
    assert differences(database_url) == []
    with sessions() as session:
        for table in ("audit_data", "score_lists", "findings"):
            found = set(session.scalars(text(f"SELECT DISTINCT audit_id FROM {table}")))
            assert found == {kept.id}, table
        assert session.scalar(text("SELECT count(*) FROM scores")) == 25


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    migrate(database_url)
    assert differences(database_url) == []


def test_processes_that_start_together_migrate_one_after_the_other(database_url: str) -> None:
    command.downgrade(alembic_config(database_url), "base")
    program = "import sys; from service.migration import migrate; migrate(sys.argv[1])"
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


def test_a_deadlock_with_the_service_begins_the_migration_again(database_url: str, postgres: EmbeddedPostgres) -> None:
    """The other session already holds what the migration wants next, and then asks for what the migration holds."""
    engine = make_engine(database_url, application_name="test")
    # The database ends whoever has waited this long and finds the cycle: the migration, which waits first.
    with psycopg.connect(host=str(postgres.folder), user=SUPERUSER, dbname=engine.url.database, autocommit=True) as own:
        own.execute(f"ALTER DATABASE {engine.url.database} SET deadlock_timeout = '3s'")
    with ThreadPoolExecutor() as executor, engine.connect() as other:
        other.execute(text("LOCK TABLE jobs IN ACCESS SHARE MODE"))
        downgrade = executor.submit(command.downgrade, alembic_config(database_url), "0024")
        wait_for(lambda: _waits_for_a_lock(engine))
        other.execute(text("LOCK TABLE audit_log IN ACCESS SHARE MODE"))
        other.commit()
        downgrade.result()
        assert database_revision(other) == "0024"
    engine.dispose()


def _waits_for_a_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        waiting = connection.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'finetooth-migrate' AND wait_event_type = 'Lock'"
            )
        )
    return waiting == 1


def test_the_installed_package_carries_the_migrations() -> None:
    names = {path.name for path in (ROOT / "migrations").rglob("*.py")}
    assert {"env.py", "0001_first_schema.py", "0002_probes_and_seeds.py", "__init__.py"} <= names
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


def test_scores_keep_their_values_when_lists_get_numbers(
    database_url: str, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    """Down to the schema before and up again, bit for bit, also as `bi` shows them."""
    with sessions.begin() as session:
        for probes in (1, 2):
            make_published(session, workspace_id, probes=probes)
    engine = make_engine(database_url, application_name="test")

    def rows(query: str) -> list[tuple[object, ...]]:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    numbered = (
        "SELECT audit_id, attempt, probe_no, {columns} FROM scores JOIN score_lists ON score_lists.id = list_id "
        "ORDER BY 1, 2, 3, 4"
    )
    columns = (
        'rank, "row", n, strongest_probe, mu, mu_low, mu_high, mu_composed, z, z_reference, side, p, q, flagged, '
        'cluster, "group"'
    )
    shown = (
        'SELECT workspace_id, audit_id, "row", rank, n, mu, mu_low, mu_high, z, side, p, q, flagged, cluster, "group" '
        "FROM bi.findings ORDER BY audit_id, rank"
    )
    before, seen = rows(numbered.format(columns=columns)), rows(shown)
    assert len(before) == 120 * (1 + 3)
    assert len(seen) == 120 * 2
    command.downgrade(alembic_config(database_url), "0010")
    assert rows(f"SELECT audit_id, attempt, probe_no, {columns} FROM scores ORDER BY 1, 2, 3, 4") == before
    assert rows(shown) == seen
    migrate(database_url)
    assert rows(numbered.format(columns=columns)) == before
    assert rows(shown) == seen
    assert differences(database_url) == []
    engine.dispose()


def test_what_people_said_and_did_stays_when_people_go(
    database_url: str, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    """Down to the schema that knows keys alone, and up again."""
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=25, flagged=3)
        person = add_person(session, workspace_id, "editor", name="Ada")
        open_browser_session(session, workspace_id=workspace_id, user_id=person, hours=1)
        said = {"audit_id": audit.id, "row": 3, "workspace_id": workspace_id, "verdict": "confirmed", "revision": 1}
        session.add(Verdict(**said, user_id=person, rank=1, flagged=True))
        session.flush()
        session.add(VerdictChange(**said, user_id=person))
    command.downgrade(alembic_config(database_url), "0018")
    engine = make_engine(database_url, application_name="test")
    with engine.connect() as connection:

        def rows(query: str) -> list[tuple[object, ...]]:
            return [tuple(row) for row in connection.execute(text(query))]

        for table in ("verdicts", "verdict_changes", "bi.verdicts"):
            assert rows(f"SELECT key_id FROM {table}") == [(person,)]
        assert rows("SELECT key_id, key_name, action FROM audit_log") == [(person, "Ada", "session.create")]
        assert rows("SELECT * FROM browser_sessions") == []
        with pytest.raises(DBAPIError, match="only added to"):
            connection.execute(text("DELETE FROM audit_log"))
    engine.dispose()
    migrate(database_url)
    assert differences(database_url) == []


def test_audits_from_before_get_their_creator_from_the_audit_log(
    database_url: str, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    with sessions.begin() as session:
        known, forgotten = (make_published(session, workspace_id, rows=25, flagged=3).id for _ in range(2))
        session.execute(
            text(
                "INSERT INTO audit_log (id, workspace_id, key_id, action, object_id) VALUES "
                "('log_1', :workspace, 'key_7', 'audit.create', :known), "
                "('log_2', :workspace, 'key_8', 'audit.cancel', :known)"
            ),
            {"workspace": workspace_id, "known": known},
        )
    command.downgrade(alembic_config(database_url), "0018")
    migrate(database_url)
    assert differences(database_url) == []
    with sessions() as session:
        found = dict(session.execute(text("SELECT id, key_id FROM audits")).tuples().all())
    assert found == {known: "key_7", forgotten: None}
