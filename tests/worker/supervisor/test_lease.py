"""Leases are kept and lost, here with ones of a second or two, which no production has."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from service.lifecycle.jobs import expire_one
from service.local.postgres import SUPERUSER, EmbeddedPostgres
from service.store.tables import Audit
from tests.support.children.scripting import FINISHED, OUTPUTS, scripted_children, training
from tests.support.supervisor_bench import Bench
from tests.support.waiting import wait_for
from worker.supervisor.audit.step_kinds import TrainSeed


@pytest.fixture
def database_away(bench: Bench, postgres: EmbeddedPostgres) -> Callable[[], Any]:
    """The test's database takes no connection, and has none, for the time of the block."""

    @contextmanager
    def away() -> Iterator[None]:
        with bench.sessions() as session:
            name = session.scalar(text("SELECT current_database()"))
        with psycopg.connect(
            host=str(postgres.folder), user=SUPERUSER, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            try:
                yield
            finally:
                connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

    return away


def test_it_is_renewed_while_the_supervisor_is_busy_with_something_else(
    bench: Bench, make_audit: Callable[..., Audit], monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = make_audit()
    accept = TrainSeed.accept

    def slowly_accept(*arguments: Any) -> Any:
        time.sleep(4)
        return accept(*arguments)

    monkeypatch.setattr(TrainSeed, "accept", slowly_accept)
    assert bench.supervisor(OUTPUTS, FINISHED, lease_seconds=3).run_due("gpu") == 1
    assert bench.job(audit).state == "succeeded"


def test_the_child_hears_of_every_renewal(bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path) -> None:
    audit = make_audit()
    heard = tmp_path / "heard"
    script = (training(["sleep", 2], ["note_commands", str(heard)]), OUTPUTS, FINISHED)
    assert bench.supervisor(*script, lease_seconds=1.5).run_due("gpu") == 1
    assert bench.job(audit).state == "succeeded"
    leases = [json.loads(line) for line in heard.read_text().splitlines()]
    assert len(leases) >= 4
    assert {lease["type"] for lease in leases} == {"lease"}
    assert all(0.8 < lease["ttl_s"] <= 1.5 for lease in leases)


def test_a_database_away_for_longer_than_the_lease_ends_the_child_and_nothing_is_written(
    bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path, database_away: Callable[[], Any]
) -> None:
    audit = make_audit()
    running = tmp_path / "running"
    supervisor = bench.supervisor(["touch", str(running)], ["exit_when_told"], OUTPUTS, FINISHED, lease_seconds=2)
    thread = threading.Thread(target=supervisor.run_due, args=("gpu",), daemon=True)
    thread.start()
    wait_for(running.exists)
    with database_away():
        away = time.monotonic()
        wait_for(lambda: scripted_children(bench.settings.data_dir) == [])
        assert 1 < time.monotonic() - away < 4
        bench.stopping.set()
    thread.join(60)
    assert not thread.is_alive()
    job = bench.job(audit)
    assert (job.state, job.attempt, job.failures) == ("running", 1, 0)
    assert list(bench.settings.work.glob("*")) == []
    with bench.sessions.begin() as session:
        assert expire_one(session) is not None
    assert bench.job(audit).state == "queued"


def test_a_database_away_for_less_than_the_lease_costs_nothing(
    bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path, database_away: Callable[[], Any]
) -> None:
    """It goes away while the child works, and comes back after the child has finished."""
    audit = make_audit()
    running, go = tmp_path / "running", tmp_path / "go"
    script = (training(["touch", str(running)], ["until", str(go)]), OUTPUTS, FINISHED)
    supervisor = bench.supervisor(*script, lease_seconds=20)
    thread = threading.Thread(target=supervisor.run_due, args=("gpu",), daemon=True)
    thread.start()
    wait_for(running.exists)
    with database_away():
        go.touch()
        wait_for(lambda: scripted_children(bench.settings.data_dir) == [])
        time.sleep(1)  # it tries to tell the database
    thread.join(30)
    job = bench.job(audit)
    assert (job.state, job.attempt, job.failures) == ("succeeded", 1, 0)


def test_a_frozen_supervisor_s_child_ends_by_itself_and_a_thawed_one_publishes_nothing(
    bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
) -> None:
    audit = make_audit()
    running = tmp_path / "running"
    with bench.process(["touch", str(running)], ["note_end", str(tmp_path / "end")], lease_seconds=2) as frozen:
        wait_for(running.exists)
        frozen.send_signal(signal.SIGSTOP)
        wait_for(lambda: scripted_children(bench.settings.data_dir) == [])
        assert (tmp_path / "end").read_text() == "the lease has run out"

        def expired() -> bool:
            with bench.sessions.begin() as session:
                return expire_one(session, retry_seconds=0.01) is not None

        # The child counts from before each renewal and so ends first.
        wait_for(expired)
        assert bench.job(audit).failures == 1
        second = bench.supervisor(OUTPUTS, FINISHED)
        wait_for(lambda: second.run_due("gpu") == 1)
        before = [(event.seq, event.attempt) for event in bench.events(audit)]
        frozen.send_signal(signal.SIGCONT)
        frozen.wait(60)
    job = bench.job(audit)
    assert (job.state, job.attempt, job.owner) == ("succeeded", 2, "test")
    assert bench.audit(audit).published_attempt == 2
    assert [(event.seq, event.attempt) for event in bench.events(audit)] == before
    assert bench.stored(audit) == {"2/train-7", "2/combine"}
    bench.no_folders_or_processes()
