"""Deletions that meet other acts, each on a connection of its own, and what clears away behind them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from service.audits.queries import find_published
from service.contract.failure import ErrorCode, Failure
from service.findings.queries import top_scores
from service.lifecycle import purging
from service.lifecycle.audits import publish, request_cancel, retry_audit
from service.lifecycle.deletion import ExportsNotEndedError, delete_audit
from service.lifecycle.exports import delete_export, publish_export
from service.lifecycle.jobs import NotEndedError, claim, expire_one, fail
from service.lifecycle.purging import AGAIN_SECONDS, LATE_SECONDS, purge_due, purge_objects
from service.lifecycle.reconcile import Reconciler
from service.principal import Principal
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import ObjectStore, audit_key
from service.store.s3_objects import S3Objects
from service.store.tables import Audit, AuditData, Job, ObjectPurge
from tests.support.leftovers import pass_readers_minute, rows_naming
from tests.support.made_audits import add_scores, make_export, make_published, make_queued, make_scores, summarise, take
from tests.support.s3_server import S3Server

Sessions = sessionmaker[Session]
FAILURE = Failure(code=ErrorCode.KILLED, message="The child was killed.", hint="Retry.")


@pytest.fixture
def objects(settings: Settings) -> LocalObjects:
    return LocalObjects(settings.objects)


@pytest.fixture
def published(sessions: Sessions, workspace_id: str) -> Audit:
    with sessions.begin() as session:
        return make_published(session, workspace_id, rows=25, flagged=3)


def delete(sessions: Sessions, audit: Audit) -> str:
    """How the deletion ended; a transaction of its own."""
    try:
        with sessions.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '10s'"))
            delete_audit(session, workspace_id=audit.workspace_id, audit_id=audit.id)
    except (LookupError, NotEndedError, ExportsNotEndedError) as error:
        return type(error).__name__
    return "deleted"


def together(*acts: Callable[[], object]) -> list[object]:
    """Runs them at the same time; what each returned, a LookupError being an outcome too."""
    start = Barrier(len(acts))

    def run(act: Callable[[], object]) -> object:
        start.wait()
        try:
            return act()
        except LookupError:
            return "LookupError"

    with ThreadPoolExecutor(len(acts)) as pool:
        return [future.result(timeout=30) for future in [pool.submit(run, act) for act in acts]]


def test_deleting_and_retrying_follow_one_another(sessions: Sessions, workspace_id: str, engine: Engine) -> None:
    outcomes = set()
    for _ in range(12):
        with sessions.begin() as session:
            audit = make_queued(session, workspace_id)
            assert fail(session, take(session, audit), FAILURE)

        def retry(audit: Audit = audit) -> str:
            with sessions.begin() as session:
                return retry_audit(session, workspace_id=workspace_id, audit_id=audit.id).state

        deleted, retried = together(lambda audit=audit: delete(sessions, audit), retry)  # type: ignore[misc]
        assert (deleted, retried) in {("deleted", "LookupError"), ("NotEndedError", "queued")}
        outcomes.add(deleted)
        with sessions.begin() as session:
            jobs = session.scalars(select(Job.state).where(Job.subject_id == audit.id)).all()
            assert sorted(jobs) == ([] if deleted == "deleted" else ["failed", "queued"])
            if deleted != "deleted":
                request_cancel(session, workspace_id=workspace_id, audit_id=audit.id)
        if deleted != "deleted":
            assert delete(sessions, audit) == "deleted"
        assert set(rows_naming(engine, audit.id)) == {"audit_data", "object_purges"}
    assert outcomes


def test_deleting_and_exporting_follow_one_another(sessions: Sessions, workspace_id: str) -> None:
    for _ in range(8):
        with sessions.begin() as session:
            audit = make_published(session, workspace_id, rows=20, flagged=1)

        def export(audit: Audit = audit) -> str:
            with sessions.begin() as session:
                return make_export(session, audit).id

        deleted, exported = together(lambda audit=audit: delete(sessions, audit), export)  # type: ignore[misc]
        assert deleted in ("deleted", "ExportsNotEndedError")
        assert (exported == "LookupError") == (deleted == "deleted")


@pytest.mark.parametrize("export_first", [True, False])
def test_the_second_waits_for_the_first_and_sees_what_it_did(
    sessions: Sessions, published: Audit, export_first: bool
) -> None:
    def export() -> str:
        try:
            with sessions.begin() as session:
                make_export(session, published)
        except LookupError:
            return "gone"
        return "exported"

    def wait_for_a_lock() -> None:
        with sessions() as observer:
            while not observer.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                observer.rollback()

    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            if export_first:
                make_export(session, published)
                waiting = pool.submit(delete, sessions, published)
            else:
                delete_audit(session, workspace_id=published.workspace_id, audit_id=published.id)
                waiting = pool.submit(export)
            wait_for_a_lock()
            assert not waiting.done()
        assert waiting.result(timeout=60) == ("ExportsNotEndedError" if export_first else "gone")


def test_an_audit_is_deleted_once(sessions: Sessions, published: Audit) -> None:
    outcomes = together(*[lambda: delete(sessions, published)] * 4)
    assert sorted(map(str, outcomes)) == ["LookupError"] * 3 + ["deleted"]


def test_deleting_an_audit_and_its_export_at_once_is_no_deadlock(sessions: Sessions, workspace_id: str) -> None:
    for _ in range(8):
        with sessions.begin() as session:
            audit = make_published(session, workspace_id, rows=20, flagged=1)
            export_id = make_export(session, audit).id
            held = claim(session, lane="io", owner="w")
            assert held is not None
            assert publish_export(session, held, rows=20, bytes=1, sha256="0" * 64)

        def drop(export_id: str = export_id) -> str:
            with sessions.begin() as session:
                delete_export(session, workspace_id=workspace_id, export_id=export_id)
            return "dropped"

        deleted, dropped = together(lambda audit=audit: delete(sessions, audit), drop)  # type: ignore[misc]
        assert deleted == "deleted"
        assert dropped in ("dropped", "LookupError")
        with sessions() as session:
            assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_whoever_was_reading_reads_to_the_end(sessions: Sessions, objects: LocalObjects, published: Audit) -> None:
    """Also where every page is a statement that sees what was committed before it."""
    with sessions() as reader:
        found = find_published(reader, Principal(published.workspace_id, "key_1", frozenset()), published.id)
        assert delete(sessions, published) == "deleted"
        assert purge_due(sessions, objects, seconds=30)
        assert [score.rank for score in top_scores(reader, found, 100)] == list(range(1, 26))
    pass_readers_minute(sessions)
    assert purge_due(sessions, objects, seconds=30)
    with sessions() as reader:
        assert top_scores(reader, found, 100) == []


def test_a_worker_that_lost_its_job_while_it_loads_is_no_obstacle_and_leaves_nothing(
    sessions: Sessions, workspace_id: str, objects: LocalObjects, engine: Engine
) -> None:
    """It has copied scores in a transaction that is open when the audit is cancelled without it, and deleted."""
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id, rows=25)
        held = take(session, audit)
    scores = make_scores(25, 3)
    worker = sessions()
    add_scores(worker, audit.id, held.attempt, scores)
    with sessions.begin() as session:
        request_cancel(session, workspace_id=workspace_id, audit_id=audit.id, within_seconds=0)
        assert expire_one(session) is not None
    assert delete(sessions, audit) == "deleted"
    pass_readers_minute(sessions)
    assert purge_due(sessions, objects, seconds=5)
    # Its row stays while the worker's transaction lasts, so that nothing of it can be forgotten.
    assert set(rows_naming(engine, audit.id)) == {"audit_data", "object_purges"}
    assert not publish(worker, held, summarise(scores))
    worker.rollback()
    worker.close()
    assert purge_due(sessions, objects, seconds=5)
    assert set(rows_naming(engine, audit.id)) == {"object_purges"}


def test_a_large_audit_goes_in_batches_and_goes_on_where_a_process_died(
    sessions: Sessions, workspace_id: str, objects: LocalObjects, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "BATCH", 7)
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=40, flagged=9, probes=2)
        kept = make_published(session, workspace_id, rows=40, flagged=9)
    before = rows_naming(engine, kept.id)
    assert delete(sessions, audit) == "deleted"
    pass_readers_minute(sessions)
    seen = []
    while not purge_due(sessions, objects, seconds=0):  # each dies after one batch
        seen.append(rows_naming(engine, audit.id).get("scores", 0) + rows_naming(engine, audit.id).get("findings", 0))
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) >= (3 * 40 + 40) // 7
    assert set(rows_naming(engine, audit.id)) == {"object_purges"}
    assert rows_naming(engine, kept.id) == before


def test_whoever_reconciles_clears_away(
    sessions: Sessions, settings: Settings, objects: LocalObjects, published: Audit, engine: Engine
) -> None:
    assert delete(sessions, published) == "deleted"
    with sessions.begin() as session:  # long ago, by a process that died at once
        session.execute(update(AuditData).values(purge_at=func.now()))
        session.execute(update(ObjectPurge).values(created_at=ObjectPurge.created_at - timedelta(seconds=LATE_SECONDS)))
    assert Reconciler(settings, sessions, objects, owner="another process").round()
    assert rows_naming(engine, published.id) == {}


def test_several_processes_may_clear_away_at_once(
    sessions: Sessions, workspace_id: str, objects: LocalObjects, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "BATCH", 5)
    audits = []
    for _ in range(3):
        with sessions.begin() as session:
            audits.append(make_published(session, workspace_id, rows=30, flagged=5))
        assert delete(sessions, audits[-1]) == "deleted"
    pass_readers_minute(sessions)
    together(*[lambda: purge_due(sessions, objects, seconds=30)] * 4)
    assert purge_due(sessions, objects, seconds=30)
    for audit in audits:
        assert set(rows_naming(engine, audit.id)) == {"object_purges"}


def test_objects_that_could_not_be_deleted_are_tried_again(
    sessions: Sessions, published: Audit, settings: Settings, bucket: str, s3_server: S3Server
) -> None:
    def store(endpoint: str) -> ObjectStore:
        return S3Objects(f"s3://{bucket}", endpoint=endpoint, spool=settings.work)

    key = audit_key(published.workspace_id, published.id, 1, "combine", "scores.parquet")
    there = store(s3_server.endpoint)
    with there.create(key) as file:
        file.write(b"x")
    assert delete(sessions, published) == "deleted"
    away = store("http://127.0.0.1:9")
    assert purge_due(sessions, away, seconds=60)  # once; then it is not due for a while
    assert there.exists(key)
    with sessions.begin() as session:
        left = session.scalars(select(ObjectPurge)).one()
        seconds = (left.due_at - session.scalars(select(func.now())).one()).total_seconds()
        assert AGAIN_SECONDS - 60 < seconds <= AGAIN_SECONDS
        left.due_at = func.now()
    assert purge_due(sessions, there, seconds=60)
    assert not there.exists(key)


def test_what_is_noted_counts_once_the_transaction_is_committed(
    sessions: Sessions, workspace_id: str, objects: LocalObjects
) -> None:
    with objects.create(f"{workspace_id}/datasets/ds_1/original") as file:
        file.write(b"x")
    with sessions() as session:
        purge_objects(session, workspace_id, f"{workspace_id}/datasets/ds_1")
        session.rollback()
    assert purge_due(sessions, objects, seconds=5)
    assert objects.exists(f"{workspace_id}/datasets/ds_1/original")


def test_an_audits_data_cannot_lose_their_row(sessions: Sessions, published: Audit) -> None:
    """The database itself holds that no score is without an owner."""
    for table in ("audit_data", "audits"):
        with pytest.raises(IntegrityError), sessions.begin() as session:
            session.execute(text(f"DELETE FROM {table}"))
