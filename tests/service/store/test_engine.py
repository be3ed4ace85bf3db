"""Pooled connections: tried before use only where there is a reason, and never given out when a server ended them."""

import time
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import Engine, make_url, text

from service.store.engine import IDLE_SECONDS, make_engine


@pytest.fixture
def pooled(database_url: str) -> Iterator[Engine]:
    """An engine of two connections, both open and given back."""
    engine = make_engine(database_url, pool_size=2, application_name="pooled")
    with engine.connect() as one, engine.connect() as two:
        for connection in (one, two):
            connection.execute(text("SELECT 1"))
    yield engine
    engine.dispose()


def test_times_are_in_utc_whatever_zone_the_database_has(database_url: str) -> None:
    url = make_url(database_url)
    with psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
        connection.execute(f"ALTER DATABASE {url.database} SET timezone TO 'Asia/Kathmandu'")
    engine = make_engine(database_url, application_name="zone")
    with engine.connect() as connection:
        now = connection.scalar(text("SELECT now()"))
    engine.dispose()
    assert now is not None
    assert now.utcoffset() == timedelta(0)


def end_all(database_url: str) -> int:
    """Ends the connections as a server that stops does; how many it were."""
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'pooled'"
        return sum(row[0] for row in connection.execute(query))


@pytest.mark.parametrize("idle", [0.0, IDLE_SECONDS])
def test_connections_that_the_server_ended_are_replaced(pooled: Engine, database_url: str, idle: float) -> None:
    assert end_all(database_url) == 2
    time.sleep(idle)
    for _ in range(3):
        with pooled.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1


def test_a_connection_that_was_just_used_is_not_asked(pooled: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    ping = pooled.dialect.do_ping
    monkeypatch.setattr(pooled.dialect, "do_ping", lambda connection: asked.append(connection) or ping(connection))
    began = time.monotonic()
    with pooled.connect() as connection:
        connection.execute(text("SELECT 1"))
    if time.monotonic() - began < IDLE_SECONDS / 2:
        assert asked == []
    time.sleep(IDLE_SECONDS)
    with pooled.connect() as connection:
        connection.execute(text("SELECT 1"))
    assert len(asked) == 1
