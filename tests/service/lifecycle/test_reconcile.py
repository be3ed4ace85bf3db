"""What looks after all jobs, on a real database and a real broker."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.audits import finish_step, publish, request_cancel, retry_audit, start_step
from service.lifecycle.jobs import Claim, claim, expire_one, mark_cancelled, renew
from service.lifecycle.reconcile import Reconciler, hold_scheduler
from service.lifecycle.workers import beat, leave, live_workers
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import audit_key
from service.store.tables import Audit, AuditStep, Job, Worker
from tests.support.builders import summary_of
from tests.support.waiting import SOON

Sessions = sessionmaker[Session]
MakeAudit = Callable[[], Audit]


@pytest.fixture
def objects(settings: Settings) -> LocalObjects:
    return LocalObjects(settings.objects)


@pytest.fixture
def reconciler(settings: Settings, sessions: Sessions, objects: LocalObjects) -> Reconciler:
    return Reconciler(settings, sessions, objects, owner="r")


@pytest.fixture
def broker(settings: Settings) -> Iterator[redis.Redis]:
    assert settings.broker_url is not None
    with redis.Redis.from_url(settings.broker_url.get_secret_value().replace("redis+socket", "unix")) as client:
        yield client


def take(sessions: Sessions, owner: str = "w", lease_seconds: float = 90) -> Claim:
    with sessions.begin() as session:
        held = claim(session, lane="gpu", owner=owner, lease_seconds=lease_seconds)
    assert held is not None
    return held


def lapse(sessions: Sessions) -> None:
    """Every lease runs out now."""
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.lease_expires_at.is_not(None)).values(lease_expires_at=func.now()))


def due_now(sessions: Sessions) -> None:
    """Nothing waits for its next attempt."""
    with sessions.begin() as session:
        session.execute(update(Job).values(next_attempt_at=func.now()))


def job_of(sessions: Sessions, audit: Audit) -> Job:
    with sessions() as session:
        return session.scalars(select(Job).join(Audit, Audit.job_id == Job.id).where(Audit.id == audit.id)).one()


class TestLease:
    def test_the_lease_counts_by_the_databases_clock(self, sessions: Sessions, make_audit: MakeAudit) -> None:
        make_audit()
        held = take(sessions, lease_seconds=60)
        with sessions() as session:
            left = session.scalar(select(func.extract("epoch", Job.lease_expires_at - func.clock_timestamp())))
        assert 55 < left <= 60
        with sessions.begin() as session:
            assert renew(session, held, lease_seconds=200) == 200
        with sessions() as session:
            left = session.scalar(select(func.extract("epoch", Job.lease_expires_at - func.clock_timestamp())))
        assert 195 < left <= 200

    def test_after_its_end_nothing_is_renewed_nor_written(self, sessions: Sessions, make_audit: MakeAudit) -> None:
        audit = make_audit()
        held = take(sessions)
        lapse(sessions)
        with sessions.begin() as session:
            assert renew(session, held) is None
            assert not publish(session, held, summary_of())
            assert not start_step(session, held, "train:7", "ab" * 32)
        assert job_of(sessions, audit).state == "running"

    def test_of_a_job_that_is_being_cancelled_it_is_not_put_off(
        self, sessions: Sessions, workspace_id: str, make_audit: MakeAudit
    ) -> None:
        audit = make_audit()
        held = take(sessions)
        with sessions.begin() as session:
            request_cancel(session, workspace_id=workspace_id, audit_id=audit.id, within_seconds=10)
        ends = job_of(sessions, audit).lease_expires_at
        with sessions.begin() as session:
            left = renew(session, held)
        assert left is not None
        assert 5 < left <= 10
        assert job_of(sessions, audit).lease_expires_at == ends
        with sessions.begin() as session:
            assert mark_cancelled(session, held)

    def test_a_renewal_that_waits_for_a_take_over_finds_that_it_came_too_late(
        self, sessions: Sessions, make_audit: MakeAudit
    ) -> None:
        make_audit()
        held = take(sessions)
        lapse(sessions)

        def try_to_renew() -> float | None:
            with sessions.begin() as session:
                return renew(session, held)

        with ThreadPoolExecutor(1) as pool:
            with sessions.begin() as session:
                assert expire_one(session) is not None
                waiting = pool.submit(try_to_renew)
                with sessions() as observer:
                    while not observer.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                        observer.rollback()
            assert waiting.result(SOON) is None


class TestExpiry:
    def test_the_job_is_queued_again_and_fails_at_the_third_time(
        self, sessions: Sessions, reconciler: Reconciler, make_audit: MakeAudit
    ) -> None:
        audit = make_audit()
        for failures in (1, 2, 3):
            held = take(sessions)
            assert held.attempt == failures
            with sessions.begin() as session:
                assert start_step(session, held, "train:7", "ab" * 32)
            lapse(sessions)
            assert reconciler.round()
            job = job_of(sessions, audit)
            assert job.failures == failures
            due_now(sessions)
        assert (job.state, job.attempt, job.lease_expires_at) == ("failed", 3, None)
        assert job.error is not None
        assert (job.error["code"], bool(job.error["hint"])) == ("lease_lost", True)

    def test_it_waits_before_it_is_due_again(
        self, sessions: Sessions, reconciler: Reconciler, make_audit: MakeAudit
    ) -> None:
        audit = make_audit()
        take(sessions)
        lapse(sessions)
        reconciler.round()
        job = job_of(sessions, audit)
        assert (job.state, job.owner) == ("queued", None)
        with sessions() as session:
            assert claim(session, lane="gpu", owner="v") is None
            wait = session.scalar(select(func.extract("epoch", Job.next_attempt_at - func.clock_timestamp())))
        assert 10 < wait <= 15

    def test_a_cancel_whose_worker_is_gone_is_finished(
        self, sessions: Sessions, workspace_id: str, reconciler: Reconciler, make_audit: MakeAudit
    ) -> None:
        audit = make_audit()
        take(sessions)
        with sessions.begin() as session:
            request_cancel(session, workspace_id=workspace_id, audit_id=audit.id)
        reconciler.round()
        assert job_of(sessions, audit).state == "cancelling"
        lapse(sessions)
        reconciler.round()
        assert job_of(sessions, audit).state == "cancelled"

    def test_leases_that_run_are_left_alone(
        self, sessions: Sessions, reconciler: Reconciler, make_audit: MakeAudit
    ) -> None:
        audit = make_audit()
        take(sessions)
        reconciler.round()
        assert job_of(sessions, audit).state == "running"

    def test_at_its_end_the_files_of_unfinished_steps_go(
        self, sessions: Sessions, reconciler: Reconciler, objects: LocalObjects, make_audit: MakeAudit
    ) -> None:
        audit = make_audit()

        def put(step_key: str, attempt: int) -> Path:
            path = objects.path(audit_key(audit.workspace_id, audit.id, attempt, step_key, "file"))
            path.parent.mkdir(parents=True)
            path.touch()
            return path

        held = take(sessions)
        with sessions.begin() as session:
            start_step(session, held, "train:7", "ab" * 32)
            finish_step(session, held, "train:7", True)
            session.execute(update(Job).values(failures=2))
        finished, unfinished = put("train:7", 1), put("combine", 1)
        lapse(sessions)
        reconciler.round()
        assert job_of(sessions, audit).state == "failed"
        assert finished.exists()
        assert not unfinished.exists()

    def test_several_at_once_take_each_job_back_once(
        self, settings: Settings, sessions: Sessions, objects: LocalObjects, make_audit: MakeAudit
    ) -> None:
        """All believe that the scheduler's row is theirs."""
        audits = [make_audit() for _ in range(20)]
        for _ in audits:
            take(sessions)
        lapse(sessions)
        reconcilers = [Reconciler(settings, sessions, objects, owner="the same") for _ in range(4)]
        start = threading.Barrier(4)

        def run(reconciler: Reconciler) -> bool:
            start.wait()
            return reconciler.round()

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(run, reconcilers)) == [True] * 4
        jobs = [job_of(sessions, audit) for audit in audits]
        assert Counter((job.state, job.failures) for job in jobs) == {("queued", 1): 20}

    def test_a_publish_that_is_under_way_is_passed_over(
        self, sessions: Sessions, reconciler: Reconciler, make_audit: MakeAudit
    ) -> None:
        """Its lease runs out between its flip and its commit."""
        audit = make_audit()
        held = take(sessions, lease_seconds=1)
        with sessions.begin() as session:
            assert publish(session, held, summary_of())
            with sessions() as observer:
                while not observer.scalar(select(func.clock_timestamp() > Job.lease_expires_at)):
                    observer.rollback()
            assert reconciler.round()
        assert job_of(sessions, audit).state == "succeeded"
        reconciler.round()
        assert job_of(sessions, audit).state == "succeeded"


class TestScheduler:
    def test_one_holds_it_until_it_is_not_heard_of(self, sessions: Sessions) -> None:
        with sessions.begin() as session:
            assert hold_scheduler(session, owner="a", seconds=60)
        with sessions.begin() as session:
            assert not hold_scheduler(session, owner="b", seconds=60)
        with sessions.begin() as session:
            assert hold_scheduler(session, owner="a", seconds=0.01)
        with sessions() as session:
            session.execute(text("SELECT pg_sleep(0.05)"))
        with sessions.begin() as session:
            assert hold_scheduler(session, owner="b", seconds=60)
        with sessions.begin() as session:
            assert not hold_scheduler(session, owner="a", seconds=60)

    def test_of_many_at_once_one_gets_it(self, sessions: Sessions) -> None:
        start = threading.Barrier(8)

        def ask(number: int) -> bool:
            start.wait()
            with sessions.begin() as session:
                return hold_scheduler(session, owner=f"o{number}", seconds=60)

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(ask, range(8))) == 1

    def test_who_does_not_hold_it_does_nothing(
        self, sessions: Sessions, reconciler: Reconciler, make_audit: MakeAudit
    ) -> None:
        audit = make_audit()
        take(sessions)
        lapse(sessions)
        with sessions.begin() as session:
            assert hold_scheduler(session, owner="another", seconds=60)
        assert not reconciler.round()
        assert job_of(sessions, audit).state == "running"

    def test_its_thread_goes_on_where_a_holder_was_killed(
        self, settings: Settings, sessions: Sessions, objects: LocalObjects, make_audit: MakeAudit
    ) -> None:
        audit = make_audit()
        take(sessions)
        lapse(sessions)
        with sessions.begin() as session:
            assert hold_scheduler(session, owner="killed", seconds=0.5)
        quick = settings.model_copy(update={"reconcile_seconds": 0.1})
        reconciler = Reconciler(quick, sessions, objects, owner="r")
        reconciler.start()
        try:
            waited = threading.Event()
            for _ in range(200):
                if job_of(sessions, audit).state == "queued":
                    break
                waited.wait(0.05)
            assert job_of(sessions, audit).state == "queued"
        finally:
            reconciler.stop()


class TestWakeUps:
    def test_one_for_each_idle_worker_as_far_as_there_are_jobs(
        self, sessions: Sessions, reconciler: Reconciler, make_audit: MakeAudit, broker: redis.Redis
    ) -> None:
        for _ in range(5):
            make_audit()
        reconciler.round()
        assert broker.llen("gpu") == 0
        with sessions.begin() as session:
            for owner in ("a", "b", "c"):
                beat(session, owner=owner, lane="gpu", host="h", pid=1)
            beat(session, owner="io", lane="io", host="h", pid=1)
        take(sessions, "a")
        for _ in range(3):
            reconciler.round()
            assert (broker.llen("gpu"), broker.llen("io")) == (2, 0)
        # What a broker has forgotten is sent again.
        broker.flushall()
        reconciler.round()
        assert broker.llen("gpu") == 2

    def test_a_worker_whose_device_failed_takes_no_wake_up_from_another(
        self, sessions: Sessions, reconciler: Reconciler, make_audit: MakeAudit, broker: redis.Redis
    ) -> None:
        with sessions.begin() as session:
            for owner in ("a", "b", "failed"):
                beat(session, owner=owner, lane="gpu", host="h", pid=1, device_failed=owner == "failed")
        reconciler.round()
        assert broker.llen("gpu") == 0
        make_audit()
        reconciler.round()
        assert broker.llen("gpu") == 2  # one for the job, and one with which the other looks again at its device
        with sessions.begin() as session:
            leave(session, owner="a")
            leave(session, owner="b")
        broker.flushall()
        reconciler.round()
        assert broker.llen("gpu") == 1

    def test_none_for_workers_that_are_gone_nor_for_jobs_that_are_not_due(
        self, sessions: Sessions, reconciler: Reconciler, make_audit: MakeAudit, broker: redis.Redis
    ) -> None:
        make_audit()
        with sessions.begin() as session:
            beat(session, owner="a", lane="gpu", host="h", pid=1)
            beat(session, owner="b", lane="gpu", host="h", pid=2)
            leave(session, owner="b")
            session.execute(update(Job).values(next_attempt_at=func.now() + text("interval '1 hour'")))
        reconciler.round()
        assert broker.llen("gpu") == 0
        due_now(sessions)
        with sessions.begin() as session:
            session.execute(update(Worker).values(seen_at=func.now() - text("interval '31 seconds'")))
        reconciler.round()
        assert broker.llen("gpu") == 0
        with sessions.begin() as session:
            beat(session, owner="a", lane="gpu", host="h", pid=1)
        reconciler.round()
        assert broker.llen("gpu") == 1

    def test_who_is_alive_and_what_it_runs(self, sessions: Sessions, make_audit: MakeAudit) -> None:
        audit = make_audit()
        with sessions.begin() as session:
            beat(session, owner="a", lane="gpu", host="h", pid=7)
            beat(session, owner="gone", lane="io", host="h", pid=8)
            session.execute(
                update(Worker).where(Worker.owner == "gone").values(seen_at=func.now() - text("interval '1 hour'"))
            )
        take(sessions, "a")
        with sessions() as session:
            (status,) = live_workers(session, heartbeat_seconds=10)
        assert (status.owner, status.lane, status.host, status.pid) == ("a", "gpu", "h", 7)
        assert (status.kind, status.subject_id) == ("audit", audit.id)
        assert status.progressed_at is not None


class TestRetry:
    def test_it_is_another_job_and_the_old_one_stays_as_it_ended(
        self, sessions: Sessions, workspace_id: str, make_audit: MakeAudit
    ) -> None:
        audit = make_audit()
        held = take(sessions)
        with sessions.begin() as session:
            start_step(session, held, "train:7", "ab" * 32)
            request_cancel(session, workspace_id=workspace_id, audit_id=audit.id)
            mark_cancelled(session, held)
        with sessions.begin() as session:
            again = retry_audit(session, workspace_id=workspace_id, audit_id=audit.id)
            assert again.id != held.job_id
        with sessions() as session:
            assert session.get_one(Job, held.job_id).state == "cancelled"
            assert {step.state for step in session.scalars(select(AuditStep))} == {"pending"}
        second = take(sessions)
        assert (second.job_id, second.attempt) == (again.id, 2)
        with sessions.begin() as session:
            assert not mark_cancelled(session, held)
            assert publish(session, second, summary_of())

    def test_many_at_once_make_one_attempt(self, sessions: Sessions, workspace_id: str, make_audit: MakeAudit) -> None:
        audit = make_audit()
        with sessions.begin() as session:
            request_cancel(session, workspace_id=workspace_id, audit_id=audit.id)
        start = threading.Barrier(6)

        def retry(_: int) -> str:
            start.wait()
            with sessions.begin() as session:
                return retry_audit(session, workspace_id=workspace_id, audit_id=audit.id).id

        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(retry, range(6)))) == 1
        with sessions() as session:
            assert session.scalar(select(func.count()).select_from(Job)) == 2

    def test_a_claim_that_meets_a_cancel_ends_in_one_of_two_ways(
        self, sessions: Sessions, workspace_id: str, make_audit: MakeAudit
    ) -> None:
        for _ in range(12):
            audit = make_audit()
            start = threading.Barrier(2)

            def ask(audit_id: str = audit.id, start: threading.Barrier = start) -> str:
                start.wait()
                with sessions.begin() as session:
                    return request_cancel(session, workspace_id=workspace_id, audit_id=audit_id).state

            def grab(start: threading.Barrier = start) -> Claim | None:
                start.wait()
                with sessions.begin() as session:
                    return claim(session, lane="gpu", owner="w")

            with ThreadPoolExecutor(2) as pool:
                asked, taken = pool.submit(ask), pool.submit(grab)
                held = taken.result()
                assert asked.result() == ("cancelled" if held is None else "cancelling")
            if held is not None:
                with sessions.begin() as session:
                    assert mark_cancelled(session, held)
