"""DELETE /v1/audits/{id}: what goes, what is in its way, and that nothing of it stays."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.contract.failure import ErrorCode, Failure
from service.lifecycle.audits import request_cancel, retry_audit
from service.lifecycle.exports import publish_export
from service.lifecycle.jobs import claim, fail, mark_cancelled
from service.lifecycle.purging import LATE_SECONDS, purge_due
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import audit_key, checkpoints_prefix, dataset_key, export_key
from service.store.tables import AuditProbe, ObjectPurge
from tests.support.leftovers import files_naming, pass_readers_minute, rows_naming
from tests.support.made_audits import make_export, make_published, make_queued, take, train

Sessions = sessionmaker[Session]
FAILURE = Failure(code=ErrorCode.KILLED, message="The child was killed.", hint="Retry.")


@pytest.fixture
def objects(settings: Settings) -> LocalObjects:
    return LocalObjects(settings.objects)


@pytest.fixture
def clear(sessions: Sessions, objects: LocalObjects) -> Callable[[], bool]:
    """What a reconciler does in its rounds; that of the application under test may be doing it too."""
    return lambda: purge_due(sessions, objects, seconds=30)


def put(objects: LocalObjects, *keys: str) -> None:
    for key in keys:
        with objects.create(key) as file:
            file.write(b"x")


def wait_for_late_writers(sessions: Sessions) -> None:
    """As if an hour had passed."""
    hour = timedelta(seconds=LATE_SECONDS)
    with sessions.begin() as session:
        session.execute(update(ObjectPurge).values(created_at=ObjectPurge.created_at - hour, due_at=func.now()))


def test_nothing_of_it_stays_anywhere(
    client: TestClient,
    sessions: Sessions,
    workspace_id: str,
    engine: Engine,
    objects: LocalObjects,
    clear: Callable[[], bool],
) -> None:
    """A failed attempt, a retry, a result of two probes, verdicts with changes, a finished export, files of all."""
    with sessions.begin() as session:
        neighbour = make_published(session, workspace_id, rows=25, flagged=3)
    before = rows_naming(engine, neighbour.id)
    with sessions.begin() as session:
        queued = make_queued(session, workspace_id)
        assert fail(session, take(session, queued), FAILURE)
        retry_audit(session, workspace_id=workspace_id, audit_id=queued.id)
        held = take(session, queued)
        train(session, held)
        assert fail(session, held, FAILURE)
    with sessions.begin() as session:
        done = make_published(session, workspace_id, rows=25, flagged=3, probes=2, seeds=2)
    for verdict in ("confirmed", "rejected"):
        body = {"verdict": verdict}
        assert client.put(f"/v1/audits/{done.id}/findings/3/verdict", json=body).status_code == 200
    with sessions.begin() as session:
        export = make_export(session, done)
        held = claim(session, lane="io", owner="w")
        assert held is not None
        assert publish_export(session, held, rows=25, bytes=1, sha256="0" * 64)
    put(
        objects,
        *(audit_key(workspace_id, one.id, 1, "train:7", "recording.npz") for one in (queued, done, neighbour)),
        f"{checkpoints_prefix(workspace_id, queued.id, 'train:7')}/1/000000003/state.pt",
        audit_key(workspace_id, done.id, 2, "combine", "scores.parquet"),
        export_key(workspace_id, export.id, 1),
    )
    assert set(rows_naming(engine, done.id)) >= {"scores", "findings", "verdicts", "verdict_changes", "exports", "jobs"}
    for audit in (queued, done):
        assert client.delete(f"/v1/audits/{audit.id}").status_code == 204
        assert set(rows_naming(engine, audit.id)) <= {
            *("audit_data", "audit_log", "score_lists", "scores", "findings"),
            *("verdicts", "verdict_changes", "opinions", "verdict_bulks", "object_purges"),
        }
    pass_readers_minute(sessions)
    assert clear()
    for identity in (queued.id, done.id, export.id):
        assert set(rows_naming(engine, identity)) - {"audit_log"} == {"object_purges"}
        assert files_naming(objects.path(workspace_id), identity) == []
    # Of a worker that was storing when it lost the job.
    put(objects, audit_key(workspace_id, queued.id, 2, "train:7", "recording.npz"))
    wait_for_late_writers(sessions)
    assert clear()
    for identity in (queued.id, done.id, export.id):
        assert set(rows_naming(engine, identity)) <= {"audit_log"}, "which says who deleted it"
        assert files_naming(objects.path(workspace_id), identity) == []
    # Of others, nothing went.
    assert rows_naming(engine, neighbour.id) == before
    assert files_naming(objects.path(workspace_id), neighbour.id) != []
    assert client.get(f"/v1/audits/{neighbour.id}/findings").json()["data"] != []


def test_it_is_gone_at_once_for_everybody_who_asks(
    client: TestClient, sessions: Sessions, workspace_id: str, engine: Engine
) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=25, flagged=3)
        export = make_export(session, audit)
        held = claim(session, lane="io", owner="w")
        assert held is not None
        assert publish_export(session, held, rows=25, bytes=1, sha256="0" * 64)
    client.put(f"/v1/audits/{audit.id}/findings/3/verdict", json={"verdict": "confirmed"})
    answer = client.delete(f"/v1/audits/{audit.id}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/events", "/summary", "/histogram", "/groups", "/findings", "/findings/3", "/precision"):
        answer = client.get(f"/v1/audits/{audit.id}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "audit_not_found"), path
    for act in ("cancel", "retry"):
        answer = client.post(f"/v1/audits/{audit.id}/{act}")
        assert (answer.status_code, answer.json()["code"]) == (404, "audit_not_found"), act
    again = client.delete(f"/v1/audits/{audit.id}")
    assert (again.status_code, again.json()["code"]) == (404, "audit_not_found")
    answer = client.post(f"/v1/audits/{audit.id}/exports", json={"kind": "scores"})
    assert (answer.status_code, answer.json()["code"]) == (404, "audit_not_found")
    assert client.get(f"/v1/exports/{export.id}").status_code == 404
    assert client.get("/v1/audits").json()["data"] == client.get("/v1/exports").json()["data"] == []
    with engine.connect() as connection:
        for view in ("audits", "findings", "verdicts", "daily_flag_rate", "review_precision"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM bi.{view}").scalar() == 0, view
        assert connection.exec_driver_sql("SELECT count(*) FROM verdicts").scalar() == 1  # until it is purged


@pytest.mark.parametrize("state", ["queued", "running", "cancelling"])
def test_only_what_has_ended_can_be_deleted(
    client: TestClient, sessions: Sessions, workspace_id: str, state: str
) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
        if state != "queued":
            take(session, audit)
        if state == "cancelling":
            request_cancel(session, workspace_id=workspace_id, audit_id=audit.id)
    answer = client.delete(f"/v1/audits/{audit.id}")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "audit_not_ended")
    assert state in problem["detail"] or "being cancelled" in problem["detail"]
    assert ("/cancel" in problem["detail"]) == (state != "cancelling")
    assert ("Retry-After" in answer.headers) == (state == "cancelling")
    assert client.get(f"/v1/audits/{audit.id}").json()["status"] == state
    if state == "queued":
        assert client.post(f"/v1/audits/{audit.id}/cancel").json()["status"] == "cancelled"
        assert client.delete(f"/v1/audits/{audit.id}").status_code == 204


def test_an_export_under_way_keeps_it(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=25, flagged=3)
    made = [client.post(f"/v1/audits/{audit.id}/exports", json={"kind": "scores"}).json()["id"] for _ in range(2)]
    with sessions.begin() as session:
        held = claim(session, lane="io", owner="w")
        assert held is not None
        assert held.subject_id == made[0]
    answer = client.delete(f"/v1/audits/{audit.id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "audit_in_use")
    assert all(export_id in answer.json()["detail"] for export_id in made)
    assert client.get(f"/v1/audits/{audit.id}/findings").status_code == 200
    client.post(f"/v1/exports/{made[1]}/cancel")
    assert made[1] not in client.delete(f"/v1/audits/{audit.id}").json()["detail"]
    client.post(f"/v1/exports/{made[0]}/cancel")
    assert made[0] in client.delete(f"/v1/audits/{audit.id}").json()["detail"]
    with sessions.begin() as session:
        assert mark_cancelled(session, held)
    assert client.delete(f"/v1/audits/{audit.id}").status_code == 204


def test_what_audits_stand_on_names_them_and_can_be_deleted_after_them(
    client: TestClient, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        first = make_published(session, workspace_id, rows=25, flagged=3)
        probe_id = session.scalars(select(AuditProbe.probe_id).where(AuditProbe.audit_id == first.id)).one()
    body = {"dataset_id": first.dataset_id, "probe_ids": [probe_id], "model_id": first.model_id}
    audits = [first.id, *(client.post("/v1/audits", json=body).json()["id"] for _ in range(4))]
    stood_on = {
        "dataset": f"/v1/datasets/{first.dataset_id}",
        "probe": f"/v1/probes/{probe_id}",
        "model": f"/v1/models/{first.model_id}",
    }
    for kind, address in stood_on.items():
        answer = client.delete(address)
        assert (answer.status_code, answer.json()["code"]) == (409, f"{kind}_in_use")
        detail = answer.json()["detail"]
        assert "DELETE /v1/audits/" in detail
        assert [audit for audit in audits if audit in detail] == audits[-3:]
        assert "and more" in detail
        assert client.get(address).status_code == 200  # the refusal has changed nothing
    for audit_id in audits:
        client.post(f"/v1/audits/{audit_id}/cancel")
        assert client.delete(f"/v1/audits/{audit_id}").status_code == 204
    # At once: the scores of the first one are still there.
    for address in stood_on.values():
        assert client.delete(address).status_code == 204, address


def test_the_scope_and_the_workspace(
    make_client: Callable[..., TestClient], other_workspace_id: str, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=25, flagged=3)
    address = f"/v1/audits/{audit.id}"
    for key, status, code in [
        (make_client("findings:read"), 403, "scope_missing"),
        (make_client("datasets:write"), 403, "scope_missing"),
        (make_client("admin", workspace=other_workspace_id), 404, "audit_not_found"),
    ]:
        answer = key.delete(address)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert make_client("audits:write").delete(address).status_code == 204


def test_files_of_datasets_and_exports_go_too_where_the_process_died_before_it(
    client: TestClient,
    sessions: Sessions,
    workspace_id: str,
    objects: LocalObjects,
    clear: Callable[[], bool],
) -> None:
    """As if: the rows are deleted as the routes do it, and the files come back as if they had never gone."""
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=25, flagged=3)
        export = make_export(session, audit)
        held = claim(session, lane="io", owner="w")
        assert held is not None
        assert publish_export(session, held, rows=25, bytes=1, sha256="0" * 64)
    assert client.delete(f"/v1/exports/{export.id}").status_code == 204
    assert client.delete(f"/v1/audits/{audit.id}").status_code == 204
    assert client.delete(f"/v1/datasets/{audit.dataset_id}").status_code == 204
    put(objects, dataset_key(workspace_id, audit.dataset_id, "original"), export_key(workspace_id, export.id, 1))
    assert clear()
    assert files_naming(objects.path(workspace_id), audit.dataset_id) == []
    assert files_naming(objects.path(workspace_id), export.id) == []
