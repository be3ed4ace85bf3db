"""What a process says of connections as it starts, against a real Postgres with processes that are alive."""

import logging
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.connection_budget import ConnectionBudget, read_budget, tell_budget
from service.lifecycle.workers import beat
from service.local.postgres import SUPERUSER
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from tests.support.api_process import api_process
from tests.support.waiting import wait_for


@pytest.fixture
def two_workers(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        for owner in ("one", "two", "gone"):
            beat(session, owner=owner, lane="gpu", host="h", pid=1)
        session.execute(text("UPDATE workers SET seen_at = now() - interval '1 hour' WHERE owner = 'gone'"))


def limit_to(settings: Settings, connections: int) -> None:
    """The database itself takes no more."""
    assert settings.database_url is not None
    url = make_url(settings.database_url.get_secret_value())
    engine = make_engine(url.set(username=SUPERUSER).render_as_string(False), application_name="test")
    with engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {url.database} CONNECTION LIMIT {connections}"))
    engine.dispose()


@pytest.mark.usefixtures("two_workers")
def test_processes_that_are_alive_are_counted(settings: Settings, engine: Engine) -> None:
    def budget() -> ConnectionBudget:
        with make_sessions(engine)() as session:
            return read_budget(session, settings)

    with engine.connect() as connection:
        most, kept = (
            int(connection.scalar(text(f"SHOW {name}")) or 0)
            for name in ("max_connections", "superuser_reserved_connections")
        )
    assert budget() == ConnectionBudget(api_processes=0, api_connections=17, workers=2, available=most - kept)
    with api_process(settings), api_process(settings):
        wait_for(lambda: budget().api_processes == 2)
        assert budget().needed == 2 * 17 + 2 * 5 + 1
    limit_to(settings, 9)
    assert budget().available == 9


@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize(("limit", "level"), [(11, "INFO"), (10, "WARNING")])
def test_too_few_are_a_warning_with_the_numbers(
    settings: Settings, sessions: sessionmaker[Session], caplog: pytest.LogCaptureFixture, limit: int, level: str
) -> None:
    limit_to(settings, limit)
    caplog.set_level(logging.INFO)
    tell_budget(sessions, settings)
    (record,) = [record for record in caplog.records if "connections" in record.message]
    assert record.levelname == level
    assert f"2 workers with 5 each may open 11 connections, and Postgres has {limit}" in record.message
    assert ("FINETOOTH_DATABASE_POOL_SIZE" in record.message) == (level == "WARNING")


def test_a_database_that_is_away_or_a_pooler_between_keeps_nobody_from_starting(
    tmp_path: Path, settings: Settings, sessions: sessionmaker[Session], caplog: pytest.LogCaptureFixture
) -> None:
    away = make_engine("postgresql+psycopg://u@127.0.0.1:1/x", application_name="test")
    tell_budget(make_sessions(away), settings)
    assert "were not counted: nothing listens" in caplog.text
    caplog.clear()
    tell_budget(sessions, settings.model_copy(update={"database_pooler": "transaction"}))
    assert caplog.text == ""
