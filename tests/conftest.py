"""Fixtures of all tests: a real Postgres and a real Valkey, started once a session, and a fresh database a test."""

import gc
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from hypothesis import settings as hypothesis_settings
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from service.local.postgres import SUPERUSER, USER, EmbeddedPostgres
from service.local.valkey import EmbeddedValkey
from service.migration import migrate
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from service.store.seed import ensure_workspace
from tests.support import server_folders
from tests.support.s3_server import CREDENTIALS, S3Server

TEMPLATE = "template_migrated"
LONGEST = ("e2e", "browser", "worker")
"""Folders whose files take longest, a minute or more: they come first, so that all processes end at the same time."""

# Three tests at a time have two cores, and models of two layers: a step's threads would mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tiny models train on the CPU, as `finetooth up` lets them too.
os.environ.setdefault("FINETOOTH_TRAIN_ON", "any")

# Where a shell starts the tests in the background it ignores SIGINT, and so would every child that they mean to stop.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, so that a red run can be repeated; `make test-slow` looks for new ones.
hypothesis_settings.register_profile("repeatable", derandomize=True)
hypothesis_settings.register_profile("exploring", derandomize=False)
hypothesis_settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(here).parts[0] not in LONGEST)


def pytest_collection_finish() -> None:
    """Leaves what collecting has imported to itself: to look through it for garbage takes 0.2 s, torch among it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Where the session's servers lie, with a short path; removed at the end."""
    with server_folders.server_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The session's Postgres; what it holds may be lost with the machine, so it does not wait for the disk."""
    quick = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "128MB"}
    server = EmbeddedPostgres(server_folder / "postgres", log=server_folder / "postgres.log", settings=quick)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url(postgres: EmbeddedPostgres) -> str:
    """SQLAlchemy URL of the session's Postgres, as superuser, of its maintenance database."""
    return postgres.url("postgres", user=SUPERUSER)


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """Name of a database that the migrations made; `database_url` copies it."""
    _execute(postgres, f"CREATE DATABASE {TEMPLATE} OWNER {USER}")
    migrate(postgres.url(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """SQLAlchemy URL of a fresh, migrated, empty database; dropped after the test."""
    name = f"test_{secrets.token_hex(6)}"
    _execute(postgres, f"CREATE DATABASE {name} TEMPLATE {migrated_template} OWNER {USER}")
    yield postgres.url(name)
    _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def valkey_url(server_folder: Path) -> Iterator[str]:
    """Broker URL (redis+socket://...) of the session's Valkey, as Settings.broker_url takes it."""
    server = EmbeddedValkey(server_folder / "valkey", log=server_folder / "valkey.log")
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def s3_server(server_folder: Path) -> Iterator[S3Server]:
    """The session's S3 server."""
    server = S3Server(server_folder / "s3.log")
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket of the S3 server, with its credentials in the environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket()


@pytest.fixture
def settings(database_url: str, valkey_url: str, tmp_path: Path) -> Settings:
    """Settings of a whole service on the fresh database and an empty broker, with folders of their own."""
    with redis.Redis.from_url(valkey_url.replace("redis+socket", "unix")) as client:
        client.flushall()
    return Settings(
        database_url=database_url, broker_url=valkey_url, data_dir=tmp_path / "data", cache_dir=tmp_path / "cache"
    )


def _execute(server: EmbeddedPostgres, statement: str) -> None:
    with psycopg.connect(host=str(server.folder), user=SUPERUSER, dbname="postgres", autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """A bystander's engine, beside the application's."""
    assert settings.database_url is not None
    engine = make_engine(settings.database_url.get_secret_value(), pool_size=20, application_name="test")
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return make_sessions(engine)


@pytest.fixture
def workspace_id(sessions: sessionmaker[Session]) -> str:
    """The default workspace, with its registered models."""
    with sessions.begin() as session:
        return ensure_workspace(session).id
