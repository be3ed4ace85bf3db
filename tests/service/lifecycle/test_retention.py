"""What is older than the settings keep it is deleted by the reconciler, and nothing else; the audit log says so."""

from collections.abc import Callable

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.contract.failure import ErrorCode, Failure
from service.lifecycle.audits import finish_step, retry_audit, start_step
from service.lifecycle.exports import publish_export
from service.lifecycle.jobs import claim, fail
from service.lifecycle.purging import purge_due
from service.lifecycle.reconcile import Reconciler
from service.lifecycle.retention import delete_too_old
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import audit_key, audit_prefix, dataset_key, export_key
from service.store.tables import Audit, AuditLogEntry, AuditStep, Dataset, Export
from tests.support.builders import add_audit, add_dataset
from tests.support.made_audits import make_export, make_published

Sessions = sessionmaker[Session]
Sweep = Callable[..., None]
FAILURE = Failure(code=ErrorCode.OUT_OF_MEMORY, message="The device ran out of memory.", hint="Lower batch_size.")


@pytest.fixture
def objects(settings: Settings) -> LocalObjects:
    return LocalObjects(settings.objects)


@pytest.fixture
def sweep(settings: Settings, sessions: Sessions, objects: LocalObjects) -> Sweep:
    """What a reconciler does that keeps things for so many days."""

    def run(**days: int) -> None:
        assert delete_too_old(sessions, settings.model_copy(update=days), seconds=60)
        assert purge_due(sessions, objects, seconds=60)

    return run


def store(objects: LocalObjects, key: str) -> str:
    with objects.create(key) as file:
        file.write(b"content")
    return key


def age(sessions: Sessions, days: int) -> None:
    """Make all that is there so much older."""
    with sessions.begin() as session:
        earlier = f"- interval '{days} days'"
        session.execute(text(f"UPDATE jobs SET finished_at = finished_at {earlier}"))
        session.execute(text(f"UPDATE datasets SET created_at = created_at {earlier}"))


def logged(sessions: Sessions) -> list[tuple[str, str | None]]:
    with sessions() as session:
        entries = session.scalars(select(AuditLogEntry).order_by(AuditLogEntry.id)).all()
    assert {(entry.key_id, entry.user_id, entry.client) for entry in entries} <= {(None, None, None)}
    return [(entry.action, entry.object_id) for entry in entries]


def count(sessions: Sessions, table: type) -> int:
    with sessions() as session:
        return len(session.scalars(select(table)).all())


@pytest.fixture
def export(sessions: Sessions, workspace_id: str, objects: LocalObjects) -> Export:
    """A finished export of a finished audit, ten days old, with files of both."""
    with sessions.begin() as session:
        audit = make_published(session, workspace_id)
        found = make_export(session, audit)
        held = claim(session, lane="io", owner="w")
        assert held is not None
        store(objects, export_key(workspace_id, found.id, held.attempt))
        store(objects, audit_key(workspace_id, audit.id, 1, "train:0", "recording.npz"))
        assert publish_export(session, held, rows=1, bytes=7, sha256="0" * 64)
    age(sessions, 10)
    return found


def test_nothing_is_deleted_by_default(sweep: Sweep, sessions: Sessions, export: Export) -> None:
    age(sessions, 10_000)
    sweep()
    sweep(export_days=20_000, audit_days=20_000, recording_days=20_000, dataset_days=20_000)
    assert (count(sessions, Export), count(sessions, Audit), count(sessions, Dataset)) == (1, 1, 1)
    assert logged(sessions) == []


def test_exports(sweep: Sweep, sessions: Sessions, export: Export, objects: LocalObjects, workspace_id: str) -> None:
    sweep(export_days=11)
    assert count(sessions, Export) == 1
    with sessions.begin() as session:
        waits = make_export(session, session.get_one(Audit, export.audit_id)).id
    sweep(export_days=9)
    with sessions() as session:
        assert session.scalars(select(Export.id)).all() == [waits]
    assert not objects.exists(export_key(workspace_id, export.id, 1))
    assert logged(sessions) == [("export.expire", export.id)]


def test_audits_with_their_exports_but_not_while_one_is_under_way(
    sweep: Sweep, sessions: Sessions, export: Export, objects: LocalObjects, workspace_id: str
) -> None:
    with sessions.begin() as session:
        make_export(session, session.get_one(Audit, export.audit_id))
        young = add_audit(session, workspace_id).id
    sweep(audit_days=9)
    assert count(sessions, Audit) == 2
    with sessions.begin() as session:
        held = claim(session, lane="io", owner="w")
        assert held is not None
        assert fail(session, held, FAILURE)
    sweep(audit_days=9)
    with sessions() as session:
        assert session.scalars(select(Audit.id)).all() == [young]
    assert count(sessions, Export) == 0
    assert not list(objects.path(audit_prefix(workspace_id, export.audit_id)).rglob("*"))
    assert logged(sessions) == [("audit.expire", export.audit_id)]


def test_recordings_go_and_results_stay(
    sweep: Sweep, sessions: Sessions, export: Export, objects: LocalObjects, workspace_id: str, client: TestClient
) -> None:
    results = store(objects, audit_key(workspace_id, export.audit_id, 1, "combine", "scores.parquet"))
    before = client.get(f"/v1/audits/{export.audit_id}/findings").json()
    with sessions.begin() as session:
        steps = session.scalars(select(AuditStep).where(AuditStep.audit_id == export.audit_id)).all()
        keys = [
            store(objects, audit_key(workspace_id, export.audit_id, step.attempt, step.step_key, "recording.npz"))
            for step in steps
            if step.step_key.startswith("train:") and step.attempt is not None
        ]
        for step in steps:
            step.bytes = 7
    assert keys
    sweep(recording_days=9)
    assert [objects.exists(key) for key in keys] == [False] * len(keys)
    assert objects.exists(results)
    assert client.get(f"/v1/audits/{export.audit_id}/findings").json() == before
    sweep(recording_days=9)
    assert logged(sessions) == [("recordings.expire", export.audit_id)], "once"
    storage = client.get(f"/v1/workspaces/{workspace_id}/usage").json()["storage"]
    assert storage["recordings"] == sum(7 for step in steps if not step.step_key.startswith("train:"))


def test_a_retry_does_not_count_on_a_recording_that_is_gone(
    sweep: Sweep, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit_id = add_audit(session, workspace_id).id
        held = claim(session, lane="gpu", owner="w")
        assert held is not None
        assert start_step(session, held, "train:7", "0" * 64)
        assert finish_step(session, held, "train:7", True, size=7)
        assert fail(session, held, FAILURE)
    age(sessions, 10)
    sweep(recording_days=9)
    with sessions.begin() as session:
        retry_audit(session, workspace_id=workspace_id, audit_id=audit_id)
        step = session.get_one(AuditStep, (audit_id, "train:7"))
        assert (step.state, step.attempt, step.bytes) == ("pending", None, None)
    # What waits or runs is left alone, however old its data.
    sweep(recording_days=1, audit_days=1)
    assert logged(sessions) == [("recordings.expire", audit_id)]


def test_datasets_on_which_no_audit_stands(
    sweep: Sweep, sessions: Sessions, export: Export, objects: LocalObjects, workspace_id: str
) -> None:
    with sessions.begin() as session:
        first, middle, last = (session.get_one(Dataset, add_dataset(session, workspace_id)) for _ in range(3))
        middle.replaces_id, last.replaces_id = first.id, middle.id
        middle.changes = {"kept": 1}
        key = store(objects, dataset_key(workspace_id, middle.id, "original"))
    with sessions.begin() as session:
        old = "UPDATE datasets SET created_at = created_at - interval '10 days' WHERE id = :id"
        session.execute(text(old), {"id": middle.id})
    sweep(dataset_days=9)
    assert logged(sessions) == [("dataset.expire", middle.id)]
    with sessions() as session:
        assert session.get_one(Dataset, last.id).replaces_id == first.id
        used = session.get_one(Audit, export.audit_id).dataset_id
        assert set(session.scalars(select(Dataset.id))) == {used, first.id, last.id}
    assert not objects.exists(key)


def test_the_log_shows_that_it_was_the_service(sweep: Sweep, client: TestClient, export: Export) -> None:
    sweep(export_days=9)
    (entry,) = client.get("/v1/audit-log?action=export.expire").json()["data"]
    assert (entry["key_id"], entry["user_id"], entry["object_id"]) == (None, None, export.id)


def test_the_reconciler_does_it(
    settings: Settings, sessions: Sessions, objects: LocalObjects, export: Export, workspace_id: str
) -> None:
    settings = settings.model_copy(update={"export_days": 9, "reconcile_seconds": 60.0})
    assert Reconciler(settings, sessions, objects, owner="r").round()
    assert count(sessions, Export) == 0
    assert not objects.exists(export_key(workspace_id, export.id, 1))
