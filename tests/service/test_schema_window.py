"""Which code runs on which schema: older code on a newer one, as long as that was only added to."""

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

import migrations
from service.bootstrap import main
from service.lifecycle.jobs import claim, renew
from service.lifecycle.workers import beat
from service.migration import Unfit, alembic_config, head_revision, migrate, why_unfit
from service.settings import Settings
from tests.support.made_audits import make_published
from tests.support.schema_changes import not_only_added, read_schema

NEXT = (
    # What the next version may do: columns and tables that this code does not know, with rules of their own.
    "ALTER TABLE audits ADD COLUMN priority int",
    "ALTER TABLE jobs ADD COLUMN weight int NOT NULL DEFAULT 1 CHECK (weight > 0)",
    "ALTER TABLE workers ADD COLUMN labels jsonb NOT NULL DEFAULT '{}'",
    "ALTER TABLE datasets ADD COLUMN licence text REFERENCES workspaces (id)",
    "CREATE TABLE licences (id text PRIMARY KEY, dataset_id text REFERENCES datasets (id))",
    "CREATE INDEX ix_probes_created ON probes (created_at)",
)

HARMFUL = {
    "ALTER TABLE audits ADD COLUMN priority int NOT NULL": "audits.priority is new and has to be given",
    "ALTER TABLE datasets DROP COLUMN sha256": "datasets.sha256 is gone",
    "ALTER TABLE datasets RENAME COLUMN sha256 TO digest": "datasets.sha256 is gone",
    "ALTER TABLE jobs ALTER COLUMN attempt TYPE bigint": "jobs.attempt is bigint, and was integer",
    "ALTER TABLE workers ALTER COLUMN device SET NOT NULL": "workers.device may no longer be null",
    "ALTER TABLE probes ADD CHECK (length(name) < 5)": "probes: CHECK ((length(name) < 5)) is new",
    "ALTER TABLE jobs ADD COLUMN weight int, ADD CHECK (weight > attempt)": "jobs: CHECK ((weight > attempt)) is new",
    "CREATE UNIQUE INDEX once ON probes (name)": "probes: CREATE UNIQUE INDEX ON public.probes",
    "ALTER TABLE workers DROP CONSTRAINT pk_workers": "workers: PRIMARY KEY (owner) is gone",
    "DROP TABLE saved_views": "saved_views.id is gone",
    "CREATE TRIGGER t BEFORE INSERT ON probes FOR EACH ROW EXECUTE FUNCTION refuse_change_of_audit_log()": (
        "probes: CREATE TRIGGER"
    ),
}


@pytest.fixture
def at_next(engine: Engine) -> None:
    """The schema as a version to come leaves it, on which this one still runs."""
    with engine.begin() as connection:
        for statement in NEXT:
            connection.execute(text(statement))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{head_revision()}'"))


def unfit(engine: Engine) -> Unfit | None:
    with engine.connect() as connection:
        return why_unfit(connection)


def test_the_revisions_since_the_oldest_code_only_add(database_url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        now = read_schema(connection)
    command.downgrade(alembic_config(database_url), migrations.OLDEST_CODE)
    with engine.connect() as connection:
        before = read_schema(connection)
    assert not_only_added(before, now) == [], "set migrations.OLDEST_CODE to the last revision that does more than add"
    migrate(database_url)


def test_what_only_adds_is_taken_for_that(engine: Engine) -> None:
    assert _changes(engine, *NEXT) == []


@pytest.mark.parametrize("statement", HARMFUL)
def test_what_older_code_trips_over_is_found(engine: Engine, statement: str) -> None:
    found = _changes(engine, statement)
    assert [one for one in found if one.startswith(HARMFUL[statement])], found


def _changes(engine: Engine, *statements: str) -> list[str]:
    with engine.connect() as connection:
        before = read_schema(connection)
        for statement in statements:
            connection.execute(text(statement))
        return not_only_added(before, read_schema(connection))


def test_migrating_says_which_code_runs_there(engine: Engine) -> None:
    with engine.connect() as connection:
        assert _said(connection) == migrations.OLDEST_CODE
    assert unfit(engine) is None


def _said(connection: Connection) -> Any:
    return connection.scalar(text("SELECT obj_description('alembic_version'::regclass)"))


def test_an_older_schema_wants_the_migrations(database_url: str, engine: Engine) -> None:
    for revision in ("-1", "base"):
        command.downgrade(alembic_config(database_url), revision)
        found = unfit(engine)
        assert found is not None
        assert not found.code_is_older
        assert "run its migrations" in found.detail


@pytest.mark.parametrize("said", ["NULL", "'9998'"])
def test_a_newer_schema_that_names_no_code_as_old_as_this_wants_newer_code(engine: Engine, said: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text(f"COMMENT ON TABLE alembic_version IS {said}"))
    found = unfit(engine)
    assert found is not None
    assert found.code_is_older
    assert "start a newer one" in found.detail


def test_an_older_version_leaves_a_newer_schema_alone(
    engine: Engine, database_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its migrations run again as it comes back; what it must not run on it refuses."""
    settings = Settings(database_url=database_url, data_dir=tmp_path)
    for oldest, code in ((head_revision(), 0), ("9998", 2)):
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
            connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{oldest}'"))
        assert main([], settings) == code
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
            assert _said(connection) == oldest
    assert "start a newer one" in capsys.readouterr().err


@pytest.mark.usefixtures("at_next")
def test_this_code_serves_and_works_on_the_next_schema(
    client: TestClient, engine: Engine, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    assert unfit(engine) is None
    assert client.get("/readyz").status_code == 200
    rows = "".join(f'{{"prompt": "What is {n}?", "completion": "{n}."}}\n' for n in range(20))
    dataset = client.post("/v1/datasets", params={"name": "d.jsonl"}, content=rows)
    assert dataset.status_code == 201, dataset.text
    probe = client.post("/v1/probes", json={"name": "p", "items": [{"prompt": "a", "unwanted": "b"}]})
    assert probe.status_code == 201, probe.text
    audit = client.post(
        "/v1/audits",
        json={
            "dataset_id": dataset.json()["id"],
            "probe_ids": [probe.json()["id"]],
            "model_id": client.get("/v1/models").json()["data"][0]["id"],
        },
    )
    assert audit.status_code == 202, audit.text
    with sessions.begin() as session:
        beat(session, owner="w", lane="gpu", host="h", pid=1)
        taken = claim(session, lane="gpu", owner="w")
        assert taken is not None
        assert renew(session, taken) is not None
        done = make_published(session, workspace_id, rows=25, flagged=3)
    for path in ("datasets", "probes", "models", "audits", "keys", "workers", f"audits/{done.id}/findings"):
        answer = client.get(f"/v1/{path}")
        assert answer.status_code == 200, (path, answer.text)
    assert client.post(f"/v1/audits/{audit.json()['id']}/cancel").status_code in (200, 202)
    assert client.delete(f"/v1/audits/{done.id}").status_code == 204
    assert client.get("/metrics").status_code == 200
