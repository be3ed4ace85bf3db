"""The life of an export: whatever breaks, it ends, and at most one file of it stays."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy import func, select, text, update

from service.lifecycle.exports import (
    NotEndedError,
    delete_export,
    publish_export,
    record_export_progress,
    request_cancel_export,
)
from service.lifecycle.jobs import claim
from service.lifecycle.reconcile import Reconciler
from service.store.local_objects import LocalObjects
from service.store.objects import ObjectStoreUnavailableError
from service.store.tables import Audit, Export, Job
from tests.support.export_bench import Bench
from tests.support.exportable import jsonl
from tests.support.waiting import wait_for
from worker.supervisor.export import content

WORKER = """
import threading
import time
import worker.supervisor.export.content
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from service.store.local_objects import LocalObjects
from worker.supervisor.dispatch import Supervisor
read = worker.supervisor.export.content._scores_of
def slowly(*arguments, **named):
    time.sleep(0.01)
    return read(*arguments, **named)
worker.supervisor.export.content._scores_of = slowly
worker.supervisor.export.content.SCORES_AT_ONCE = 1
settings = Settings()
sessions = make_sessions(make_engine(settings.database_url.get_secret_value(), application_name="t"))
Supervisor(settings, sessions, LocalObjects(settings.objects), owner="x", stopping=threading.Event()).run_due("io")
"""
"""A worker that is slow: every score is a transaction of its own, and all of them take 20 s at least."""


@pytest.fixture
def audit(bench: Bench) -> Audit:
    return bench.audit(jsonl(2000), range(5))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Exports of scores take 20 s at least, until this is called."""
    read = content._scores_of

    def slowly(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.01)
        return read(*arguments, **named)

    monkeypatch.setattr(content, "_scores_of", slowly)

    def at_once(scores: int) -> None:
        monkeypatch.setattr(content, "SCORES_AT_ONCE", scores)

    at_once(1)
    return lambda: at_once(10_000)


@contextmanager
def in_background(act: Callable[[], object]) -> Iterator[None]:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(act)
        yield
        running.result(timeout=60)


def is_under_way(bench: Bench, export: str) -> Callable[[], bool]:
    return lambda: (bench.row(export).progress_done or 0) > 0


def lapse(bench: Bench) -> None:
    """Every lease runs out, and whoever looks after jobs sees it; what is to be tried again is due."""
    with bench.sessions.begin() as session:
        session.execute(update(Job).where(Job.lease_expires_at.is_not(None)).values(lease_expires_at=func.now()))
    assert Reconciler(bench.settings, bench.sessions, bench.objects, owner="r").round()
    due(bench)


def due(bench: Bench) -> None:
    with bench.sessions.begin() as session:
        session.execute(update(Job).where(Job.state == "queued").values(next_attempt_at=func.now()))


def cancel(bench: Bench, export: str) -> str:
    with bench.sessions.begin() as session:
        return request_cancel_export(session, workspace_id=bench.workspace_id, export_id=export).state


def test_it_shows_how_far_it_is(bench: Bench, audit: Audit, slow: Callable[[], None]) -> None:
    export = bench.export(audit, "scores")
    with in_background(lambda: bench.supervisor().run_due("io")):
        wait_for(is_under_way(bench, export))
        row = bench.row(export)
        assert row.progress_done is not None
        assert 0 < row.progress_done < 2000
        assert (row.progress_total, row.progress_unit) == (2000, "scores")
        assert row.eta_at is not None
        assert bench.job(export).state == "running"
        slow()
    row = bench.row(export)
    assert (row.progress_done, row.eta_at, row.rows) == (None, None, 2000)


class TestKilled:
    def worker(self, bench: Bench) -> subprocess.Popen[bytes]:
        assert bench.settings.database_url is not None
        return subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={
                **os.environ,
                "FINETOOTH_DATABASE_URL": bench.settings.database_url.get_secret_value(),
                "FINETOOTH_DATA_DIR": str(bench.settings.data_dir),
            },
        )

    def test_the_next_attempt_starts_again_and_one_file_stays(self, bench: Bench, audit: Audit) -> None:
        export = bench.export(audit, "scores")
        with self.worker(bench) as process:
            wait_for(is_under_way(bench, export))
            process.send_signal(signal.SIGKILL)
        left = bench.stored(export)
        assert len(left) == 1
        assert left[0].startswith("1/.")  # unfinished
        lapse(bench)
        job = bench.job(export)
        assert (job.state, job.failures, bench.row(export).progress_done) == ("queued", 1, None)
        content = bench.run(export)
        assert content.count(b"\n") == 2000
        assert bench.stored(export) == ["2/content"]
        assert bench.row(export).published_attempt == 2

    def test_for_the_third_time_it_has_failed_and_nothing_is_left(self, bench: Bench, audit: Audit) -> None:
        export = bench.export(audit, "scores")
        with bench.sessions.begin() as session:
            session.execute(update(Job).where(Job.subject_id == export).values(failures=2))
        with self.worker(bench) as process:
            wait_for(is_under_way(bench, export))
            process.send_signal(signal.SIGKILL)
        lapse(bench)
        job = bench.job(export)
        assert job.state == "failed"
        assert job.error is not None
        assert job.error["code"] == "lease_lost"
        assert "ask for the export again" in job.error["hint"]
        assert bench.stored(export) == []


class TestCancelled:
    def test_before_it_started(self, bench: Bench, audit: Audit) -> None:
        export = bench.export(audit)
        assert cancel(bench, export) == "cancelled"
        assert bench.supervisor().run_due("io") == 0
        assert cancel(bench, export) == "cancelled"

    def test_while_it_is_written(self, bench: Bench, audit: Audit, slow: Callable[[], None]) -> None:
        export = bench.export(audit, "scores")
        with in_background(lambda: bench.supervisor().run_due("io")):
            wait_for(is_under_way(bench, export))
            asked = time.monotonic()
            assert cancel(bench, export) == "cancelling"
            wait_for(lambda: bench.job(export).state == "cancelled")
            assert time.monotonic() - asked < 20
        assert bench.stored(export) == []
        assert bench.row(export).published_attempt is None

    def test_while_a_bucket_takes_its_time(self, bench: Bench, audit: Audit) -> None:
        """The worker goes on with other work; what is stored in the end is deleted."""
        slow = SlowStore(bench.settings.objects)
        export = bench.export(audit)
        other = bench.export(audit)
        with in_background(lambda: bench.supervisor(slow).run_due("io")):
            assert slow.storing.wait(30)
            cancel(bench, export)
            wait_for(lambda: bench.job(export).state == "cancelled")
            slow.may_end.set()
            wait_for(lambda: bench.job(other).state == "succeeded")
        wait_for(lambda: bench.stored(export) == [])
        assert bench.stored(other) == ["1/content"]

    @pytest.mark.parametrize("cancel_first", [True, False])
    def test_cancel_and_publish_follow_one_another(self, bench: Bench, audit: Audit, cancel_first: bool) -> None:
        export = bench.export(audit)
        with bench.sessions.begin() as session:
            held = claim(session, lane="io", owner="w")
        assert held is not None

        def publish() -> bool:
            with bench.sessions.begin() as session:
                return publish_export(session, held, rows=1, bytes=1, sha256="0" * 64)

        first, second = (lambda: cancel(bench, export), publish)[:: 1 if cancel_first else -1]
        assert (first(), second()) == (("cancelling", False) if cancel_first else (True, "succeeded"))
        assert (bench.row(export).published_attempt is None) == cancel_first

    def test_cancels_racing_publishes_end_in_one_of_two_ways(self, bench: Bench, audit: Audit) -> None:
        for _ in range(10):
            export = bench.export(audit)
            with bench.sessions.begin() as session:
                held = claim(session, lane="io", owner="w")
            assert held is not None
            start = threading.Barrier(2)

            def ask(export: str = export, start: threading.Barrier = start) -> str:
                start.wait()
                return cancel(bench, export)

            def flip(held: object = held, start: threading.Barrier = start) -> bool:
                start.wait()
                with bench.sessions.begin() as session:
                    return publish_export(session, held, rows=1, bytes=1, sha256="0" * 64)  # type: ignore[arg-type]

            with ThreadPoolExecutor(2) as pool:
                asked, published = pool.submit(ask), pool.submit(flip)
                outcome = (published.result(), asked.result())
            assert outcome in {(True, "succeeded"), (False, "cancelling")}
            assert (bench.row(export).published_attempt is not None) == outcome[0]


class TestFenced:
    def test_a_zombie_cannot_publish(self, bench: Bench, audit: Audit) -> None:
        """It was held up while it stored its file; meanwhile another has done the work."""
        slow = SlowStore(bench.settings.objects)
        export = bench.export(audit)
        with in_background(lambda: bench.supervisor(slow, owner="zombie", poll_seconds=30).run_due("io")):
            assert slow.storing.wait(30)
            lapse(bench)
            assert bench.supervisor().run_due("io") == 1
            assert bench.row(export).published_attempt == 2
            slow.may_end.set()
        assert bench.row(export).published_attempt == 2
        assert bench.job(export).owner == "test"
        wait_for(lambda: bench.stored(export) == ["2/content"])

    def test_nothing_of_it_is_written_after_its_lease(self, bench: Bench, audit: Audit) -> None:
        export = bench.export(audit)
        with bench.sessions.begin() as session:
            held = claim(session, lane="io", owner="w")
        assert held is not None
        lapse(bench)
        with bench.sessions.begin() as session:
            assert not record_export_progress(session, held, done=1, total=2, unit="samples", eta_seconds=None)
            assert not publish_export(session, held, rows=1, bytes=1, sha256="0" * 64)
        assert bench.row(export).progress_done is None

    def test_what_is_deleted_stays_deleted(self, bench: Bench, audit: Audit) -> None:
        export = bench.export(audit)
        with bench.sessions.begin() as session:
            held = claim(session, lane="io", owner="w")
        assert held is not None
        with bench.sessions() as session, pytest.raises(NotEndedError):
            delete_export(session, workspace_id=bench.workspace_id, export_id=export)
        cancel(bench, export)
        lapse(bench)
        with bench.sessions.begin() as session:
            delete_export(session, workspace_id=bench.workspace_id, export_id=export)
            assert not publish_export(session, held, rows=1, bytes=1, sha256="0" * 64)
        with bench.sessions() as session:
            assert session.get(Export, export) is None
            assert session.scalar(select(func.count()).where(Job.subject_id == export)) == 0


class TestAStoreThatIsAway:
    @pytest.mark.parametrize("when", ["at the start", "at the end"])
    def test_it_is_tried_again_and_fails_for_the_third_time(self, bench: Bench, audit: Audit, when: str) -> None:
        export = bench.export(audit)
        away = AwayStore(bench.settings.objects, when)
        for failures in (1, 2, 3):
            assert bench.supervisor(away).run_due("io") == 1
            job = bench.job(export)
            assert (job.state, job.failures) == ("failed" if failures == 3 else "queued", failures)
            assert bench.stored(export) == []
            due(bench)
        assert job.error is not None
        assert job.error["code"] == "network"
        assert "ask for the export again" in job.error["hint"]

    def test_once_it_is_back_the_export_succeeds(self, bench: Bench, audit: Audit) -> None:
        export = bench.export(audit)
        assert bench.supervisor(AwayStore(bench.settings.objects, "at the end")).run_due("io") == 1
        due(bench)
        assert bench.run(export).count(b"\n") == 1995
        assert bench.stored(export) == ["2/content"]


def test_a_worker_that_ends_gives_it_back(bench: Bench, audit: Audit, slow: Callable[[], None]) -> None:
    export = bench.export(audit, "scores")
    with in_background(lambda: bench.supervisor().run_due("io")):
        wait_for(is_under_way(bench, export))
        bench.stopping.set()
    job = bench.job(export)
    assert (job.state, job.failures) == ("queued", 0)
    assert bench.stored(export) == []
    bench.stopping.clear()
    slow()
    assert bench.run(export).count(b"\n") == 2000


def test_a_database_that_breaks_the_connection_is_asked_again(
    bench: Bench, audit: Audit, slow: Callable[[], None]
) -> None:
    export = bench.export(audit, "scores")
    with in_background(lambda: bench.supervisor().run_due("io")):
        wait_for(is_under_way(bench, export))
        with bench.sessions() as session:
            ended = session.scalars(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            ).all()
        assert ended
        time.sleep(0.5)
        slow()
    assert bench.job(export).state == "succeeded"
    assert bench.content(export).count(b"\n") == 2000


def test_missing_rows_are_no_export(bench: Bench, audit: Audit) -> None:
    bench.objects.delete_tree(f"{bench.workspace_id}/datasets/{audit.dataset_id}")
    export = bench.export(audit, "flagged")
    bench.supervisor().run_due("io")
    job = bench.job(export)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "input_missing"


def test_the_lanes_do_not_take_each_others_jobs(bench: Bench, audit: Audit) -> None:
    bench.export(audit)
    assert bench.supervisor().run_due("gpu") == 0
    assert bench.supervisor().run_due("io") == 1


class SlowStore(LocalObjects):
    """A store whose first object of an export is whole only when `may_end` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.storing = threading.Event()
        self.may_end = threading.Event()

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        with super().create(key) as file:
            yield file
            if not self.storing.is_set():
                self.storing.set()
                assert self.may_end.wait(60)


class AwayStore(LocalObjects):
    """A store that takes no object."""

    def __init__(self, root: Path, when: str) -> None:
        super().__init__(root)
        self._when = when

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        if self._when == "at the start":
            raise ObjectStoreUnavailableError("away")
        with super().create(key) as file:
            yield file
            raise ObjectStoreUnavailableError("away")
