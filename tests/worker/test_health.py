"""`python -m worker.health` means: it makes progress."""

import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.jobs import claim
from service.lifecycle.workers import beat
from service.settings import Settings
from service.store.tables import Audit
from worker.health import main

HOST = socket.gethostname()


@pytest.fixture
def check(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        code = main(list(arguments), settings)
        return code, capsys.readouterr().out.strip()

    return run


@pytest.fixture
def sql(sessions: sessionmaker[Session]) -> Callable[[str], None]:
    def run(statement: str) -> None:
        with sessions.begin() as session:
            session.execute(text(statement))

    return run


Check = Callable[..., tuple[int, str]]
Sql = Callable[[str], None]


@pytest.fixture
def worker(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        beat(session, owner="w", lane="gpu", host=HOST, pid=1)
        beat(session, owner="elsewhere", lane="io", host="another", pid=1)


def test_no_worker_or_a_silent_one_is_ill(check: Check, sql: Sql, worker: None) -> None:
    assert check() == (0, "ok")
    assert check("gpu") == (0, "ok")
    assert check("io")[0] == 1
    sql("UPDATE workers SET seen_at = now() - interval '5 minutes'")
    code, says = check()
    assert code == 1
    assert HOST in says


@pytest.mark.usefixtures("worker")
def test_a_run_that_moves_is_well_and_a_stuck_one_ill(
    check: Check, sql: Sql, make_audit: Callable[..., Audit], sessions: sessionmaker[Session]
) -> None:
    audit = make_audit(stored=False)
    with sessions.begin() as session:
        assert claim(session, lane="gpu", owner="w")
    assert check() == (0, "ok")
    sql("UPDATE audits SET progressed_at = now() - interval '31 minutes'")
    code, says = check()
    assert code == 1
    assert audit.id in says


@pytest.mark.usefixtures("worker")
def test_an_idle_worker_beside_a_waiting_job_is_deaf(check: Check, sql: Sql, make_audit: Callable[..., Audit]) -> None:
    make_audit(stored=False)
    sql("UPDATE workers SET started_at = now() - interval '1 hour'")
    assert check() == (0, "ok")  # the job has only just come
    sql("UPDATE jobs SET next_attempt_at = now() - interval '3 minutes'")
    code, says = check()
    assert code == 1
    assert "1 jobs wait" in says


def test_a_worker_whose_device_failed_is_ill(check: Check, worker: None, sessions: sessionmaker[Session]) -> None:
    for failed in (True, False):
        with sessions.begin() as session:
            beat(session, owner="w", lane="gpu", host=HOST, pid=1, device_failed=failed)
        code, says = check("gpu")
        assert code == failed
        assert ("its device failed" in says) == failed


def test_the_command_says_what_is_wrong_and_no_secret(settings: Settings) -> None:
    assert settings.database_url is not None
    for url, code in ((settings.database_url.get_secret_value(), 1), ("postgresql+psycopg://u:pa55@127.0.0.1:9/x", 1)):
        done = subprocess.run(
            [sys.executable, "-m", "worker.health", "gpu"],
            env={"PATH": "/usr/bin", "FINETOOTH_DATABASE_URL": url},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert "pa55" not in done.stdout + done.stderr


def test_no_restart_mends_a_database_that_is_away(
    check: Check, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("gpu", "--liveness")[0] == 1  # no worker: that one would
    away = settings.model_copy(update={"database_url": SecretStr("postgresql+psycopg://u:pa55@127.0.0.1:9/x")})
    assert main(["gpu", "--liveness"], away) == 0
    assert main(["gpu"], away) == 1
    said = capsys.readouterr().out
    assert said.splitlines() == 2 * ["the database does not answer (nothing listens at its address)"]
    assert main(["--alive"], settings) == 2
