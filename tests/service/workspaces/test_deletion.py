"""Deleting a workspace: all of it goes and nothing of another, wherever a process ends, whoever else is at work."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, delete, event, func, insert, inspect, select, text, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.errors import ConflictError
from service.http.auth.authentication import COOKIE
from service.http.quotas import check_probes
from service.keys.secrets import create_key, create_sign_in_link, open_browser_session
from service.lifecycle.audits import publish
from service.lifecycle.jobs import Claim, claim, expire_one, mark_cancelled
from service.lifecycle.purging import LATE_SECONDS, purge_due
from service.lifecycle.reconcile import Reconciler
from service.lifecycle.workers import beat, wake_ups_due
from service.lifecycle.workspaces import delete_due_workspaces, forget_deleted_workspaces, request_deletion
from service.people.arrivals import PersonRefused, arrive
from service.people.identity import Identity
from service.settings import Settings
from service.store.engine import make_sessions
from service.store.expiry import delete_old_log_entries
from service.store.ids import new_id
from service.store.local_objects import LocalObjects
from service.store.objects import ObjectStore, audit_key, dataset_key, export_key, model_key, upload_key
from service.store.tables import (
    ApiKey,
    Audit,
    AuditLogEntry,
    Base,
    BrowserSession,
    Dataset,
    IdempotencyRecord,
    Job,
    Membership,
    Model,
    ObjectPurge,
    Probe,
    Scheduler,
    SignInLink,
    UploadPart,
    User,
    Workspace,
)
from service.store.verdict_tables import SavedView
from tests.support.builders import add_audit, add_dataset, add_model, add_person, add_probe, add_upload, summary_of
from tests.support.leftovers import files_naming, pass_readers_minute, rows_naming
from tests.support.made_audits import make_export, make_published
from tests.support.pages import OURS

Sessions = sessionmaker[Session]
MakeClient = Callable[..., TestClient]

STAYS = {"workspaces", "audit_log", "object_purges"}
"""Tables that may name a deleted workspace: its own row, who did what in it, and what is looked for once more."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The application reconciles once, as it starts: from then on the tests do."""
    return settings.model_copy(update={"reconcile_seconds": 3600.0})


@pytest.fixture
def objects(settings: Settings) -> LocalObjects:
    return LocalObjects(settings.objects)


def put(objects: ObjectStore, key: str) -> None:
    with objects.create(key) as file:
        file.write(b"content")


def fill(sessions: Sessions, objects: ObjectStore, workspace_id: str) -> None:
    """Give a workspace something of everything: two audits with results, one that waits, versions, people, files."""
    with sessions.begin() as session:
        for _ in range(2):
            audit = make_published(session, workspace_id, rows=25, flagged=3, probes=2, seeds=2)
            put(objects, audit_key(workspace_id, audit.id, 1, "train:7", "recording.npz"))
        export = make_export(session, audit)
        put(objects, export_key(workspace_id, export.id, 1))
        waiting = add_audit(session, workspace_id)
        later = func.now() + timedelta(hours=1)
        session.execute(update(Job).where(Job.id == waiting.job_id).values(next_attempt_at=later))
        before = None
        for _ in range(3):
            dataset = add_dataset(session, workspace_id)
            session.execute(update(Dataset).where(Dataset.id == dataset).values(replaces_id=before))
            put(objects, dataset_key(workspace_id, before := dataset, "original"))
        upload = add_upload(session, workspace_id)
        session.execute(
            insert(UploadPart).values(workspace_id=workspace_id, upload_id=upload, start=0, bytes=1, name="p")
        )
        put(objects, upload_key(workspace_id, upload, "p"))
        model = session.get_one(Model, add_model(session, workspace_id))
        model.stored = {"files": [], "config": {}}
        put(objects, model_key(workspace_id, model.id, "a" * 64))
        # No row names it: its upload was broken off by a kill.
        put(objects, dataset_key(workspace_id, "ds_none", "original"))
        key, _ = create_key(session, workspace_id=workspace_id, name="ci", scopes=["admin"])
        create_sign_in_link(session, key_id=key.id, minutes=5)
        open_browser_session(session, workspace_id=workspace_id, key_id=key.id, hours=1)
        person = add_person(session, workspace_id, "admin")
        open_browser_session(session, workspace_id=workspace_id, user_id=person, hours=1)
        by = {"workspace_id": workspace_id, "key_id": key.id}
        session.add(SavedView(id=new_id("view"), name="v", query="", user_id=None, **by))
        session.add(
            IdempotencyRecord(
                workspace_id=workspace_id, actor_id=key.id, key="k", target_sha256=b"", body_sha256=b"", status=201,
                headers=[], body=b"{}", expires_at=func.now() + timedelta(days=1),
            )
        )  # fmt: skip
        for table in ("verdicts", "verdict_changes"):
            names = "audit_id, row, workspace_id, verdict, key_id, revision"
            more = (", rank, flagged", ", 1, true") if table == "verdicts" else ("", "")
            session.execute(
                text(f"INSERT INTO {table} ({names}{more[0]}) VALUES (:a, 1, :w, 'confirmed', :k, 1{more[1]})"),
                {"a": audit.id, "w": workspace_id, "k": key.id},
            )


def ask(client: TestClient, workspace_id: str, name: str = "other") -> dict[str, Any]:
    answer = client.delete(f"/v1/workspaces/{workspace_id}", params={"name": name})
    assert answer.status_code == 202, answer.text
    deletion: dict[str, Any] = answer.json()["deletion"]
    return deletion


def deletion_of(client: TestClient, workspace_id: str) -> dict[str, Any]:
    deletion: dict[str, Any] = client.get(f"/v1/workspaces/{workspace_id}").json()["deletion"]
    return deletion


def is_deleted(sessions: Sessions, workspace_id: str) -> bool:
    with sessions() as session:
        return session.get_one(Workspace, workspace_id).deleted_at is not None


def carry_out(sessions: Sessions, objects: ObjectStore, workspace_id: str, *, rounds: int = 20) -> None:
    """What the reconciler does, without its pauses."""
    for _ in range(rounds):
        delete_due_workspaces(sessions, seconds=60, cancel_seconds=15)
        if is_deleted(sessions, workspace_id):
            return
        pass_readers_minute(sessions)
        purge_due(sessions, objects, seconds=60)
    raise AssertionError("it is not deleted")


def pass_hour(sessions: Sessions, workspace_id: str) -> None:
    """As if the hour were over after which all is looked through once more."""
    with sessions.begin() as session:
        ago = timedelta(seconds=LATE_SECONDS)
        session.execute(
            update(ObjectPurge).values(created_at=ObjectPurge.created_at - ago, due_at=ObjectPurge.due_at - ago)
        )
        session.execute(
            update(Workspace)
            .where(Workspace.id == workspace_id)
            .values(deletion_due_at=Workspace.deletion_due_at - ago)
        )


def snapshot(engine: Engine, root: Path, workspace_id: str) -> Any:
    """Every row and file that names the workspace."""
    rows = {}
    with engine.connect() as connection:
        for table in inspect(engine).get_table_names():
            query = f'SELECT one::text FROM "{table}" AS one WHERE position(:id IN one::text) > 0 ORDER BY 1'
            rows[table] = connection.scalars(text(query), {"id": workspace_id}).all()
        query = "SELECT one::text FROM scores AS one JOIN score_lists ON score_lists.id = list_id ORDER BY 1"
        rows["scores"] = connection.scalars(text(query)).all()
    return rows, files_naming(root, workspace_id)


def test_all_of_it_goes_and_nothing_of_another(
    client: TestClient, sessions: Sessions, objects: LocalObjects, engine: Engine, settings: Settings,
    other_workspace_id: str,
) -> None:  # fmt: skip
    with sessions.begin() as session:
        third = Workspace(id=new_id("ws"), name="third")
        session.add(third)
    fill(sessions, objects, third.id)
    before = snapshot(engine, settings.objects, third.id)
    assert len(before[1]) > 5
    fill(sessions, objects, other_workspace_id)
    # Else the test would not notice what is left out.
    naming = {table.name for table in Base.metadata.sorted_tables if "workspace_id" in table.columns}
    assert set(rows_naming(engine, other_workspace_id)) >= naming - {"object_purges", "verdict_bulks"}
    asked = ask(client, other_workspace_id)
    assert (asked["status"], asked["done"], asked["deleted_at"]) == ("stopping", 0, None)
    carry_out(sessions, objects, other_workspace_id)
    assert set(rows_naming(engine, other_workspace_id)) == STAYS
    assert files_naming(settings.objects, other_workspace_id) == []
    assert snapshot(engine, settings.objects, third.id) == before
    told = deletion_of(client, other_workspace_id)
    assert (told["status"], told["done"], told["total"]) == ("deleted", asked["total"], asked["total"])
    assert other_workspace_id not in {one["id"] for one in client.get("/v1/workspaces").json()["data"]}
    # Asked for again, nothing begins anew.
    assert ask(client, other_workspace_id) == told


def test_an_hour_later_all_is_looked_through_once_more(
    client: TestClient, sessions: Sessions, objects: LocalObjects, engine: Engine, settings: Settings,
    other_workspace_id: str,
) -> None:  # fmt: skip
    """A version that does not know of deletions may still have let somebody in, and an upload may have gone on."""
    ask(client, other_workspace_id)
    carry_out(sessions, objects, other_workspace_id)
    told = deletion_of(client, other_workspace_id)
    with sessions.begin() as session:
        late = add_audit(session, other_workspace_id)
        create_key(session, workspace_id=other_workspace_id, name="late", scopes=["admin"])
        add_person(session, other_workspace_id, "admin")
    put(objects, dataset_key(other_workspace_id, late.dataset_id, "original"))
    delete_due_workspaces(sessions, seconds=60, cancel_seconds=15)
    assert "audits" in rows_naming(engine, other_workspace_id), "not yet"
    pass_hour(sessions, other_workspace_id)
    for _ in range(6):
        delete_due_workspaces(sessions, seconds=60, cancel_seconds=15)
        pass_readers_minute(sessions)
        purge_due(sessions, objects, seconds=60)
    assert set(rows_naming(engine, other_workspace_id)) == STAYS
    assert files_naming(settings.objects, other_workspace_id) == []
    assert deletion_of(client, other_workspace_id) == told
    with sessions() as session:
        assert session.get_one(Workspace, other_workspace_id).deletion_due_at is None


def test_the_name_is_free_once_the_audit_log_no_longer_names_it(
    client: TestClient, sessions: Sessions, objects: LocalObjects, engine: Engine, other_workspace_id: str
) -> None:
    fill(sessions, objects, other_workspace_id)
    ask(client, other_workspace_id)
    carry_out(sessions, objects, other_workspace_id)
    pass_hour(sessions, other_workspace_id)
    for _ in range(3):
        purge_due(sessions, objects, seconds=60)
        delete_due_workspaces(sessions, seconds=60, cancel_seconds=15)
    taken = client.post("/v1/workspaces", json={"name": "other"})
    assert (taken.status_code, taken.json()["code"]) == (409, "workspace_name_taken")
    assert forget_deleted_workspaces(sessions) == []
    pass_hour(sessions, other_workspace_id)
    purge_due(sessions, objects, seconds=60)
    assert "object_purges" not in rows_naming(engine, other_workspace_id)
    assert forget_deleted_workspaces(sessions) == [], "the audit log names it"
    with sessions.begin() as session:
        assert delete_old_log_entries(session, days=0) > 0
    assert forget_deleted_workspaces(sessions) == [other_workspace_id]
    assert rows_naming(engine, other_workspace_id) == {}
    assert client.get(f"/v1/workspaces/{other_workspace_id}").status_code == 404
    assert client.post("/v1/workspaces", json={"name": "other"}).status_code == 201


def test_whoever_reconciles_carries_it_out(
    client: TestClient, sessions: Sessions, objects: LocalObjects, engine: Engine, settings: Settings,
    other_workspace_id: str,
) -> None:  # fmt: skip
    fill(sessions, objects, other_workspace_id)
    ask(client, other_workspace_id)
    with sessions.begin() as session:
        session.execute(delete(Scheduler))
    reconciler = Reconciler(settings, sessions, objects, owner="r")
    told = []
    while not is_deleted(sessions, other_workspace_id):
        assert len(told) < 10
        assert reconciler.round()
        told.append(deletion_of(client, other_workspace_id)["status"])
        pass_readers_minute(sessions)
    assert told[0] == "clearing"
    assert told[-1] == "deleted"
    assert set(rows_naming(engine, other_workspace_id)) == STAYS
    assert files_naming(settings.objects, other_workspace_id) == []


class Crash(Exception):  # noqa: N818
    """The process ends here."""


class Crashes:
    """Ends every second act in its middle: what is begun is lost, and done again by whoever comes next."""

    def __init__(self) -> None:
        self.happened = 0
        self._draw = random.Random(5)

    def __call__(self, *_: Any) -> None:
        if self._draw.random() < 0.5:
            self.happened += 1
            raise Crash


class DyingObjects(LocalObjects):
    """Deletes what is asked for, and the process ends before anybody hears of it."""

    crash: Crashes

    def delete_tree(self, prefix: str) -> bool:
        deleted = super().delete_tree(prefix)
        self.crash()
        return deleted


def test_wherever_it_breaks_off_it_is_carried_on(
    client: TestClient, sessions: Sessions, objects: LocalObjects, engine: Engine, settings: Settings,
    other_workspace_id: str,
) -> None:  # fmt: skip
    """Every piece is broken off before its commit and done again, and files are deleted without anybody's noting it."""
    fill(sessions, objects, other_workspace_id)
    ask(client, other_workspace_id)
    dying, crash = make_sessions(engine), Crashes()
    event.listen(dying, "before_commit", crash)
    dying_objects = DyingObjects(settings.objects)
    dying_objects.crash = Crashes()
    done = [0]
    for _ in range(500):
        for act in (
            lambda: delete_due_workspaces(dying, seconds=0, cancel_seconds=15),
            lambda: purge_due(dying, dying_objects, seconds=60),
        ):
            with suppress(Crash):
                act()
        pass_readers_minute(sessions)
        with sessions.begin() as session:  # what was being deleted when its process ended is tried after a while
            session.execute(
                update(ObjectPurge)
                .where(ObjectPurge.due_at < func.now() + timedelta(minutes=3))
                .values(due_at=func.now())
            )
        told = deletion_of(client, other_workspace_id)
        assert told["done"] >= done[-1]
        done.append(told["done"])
        if told["status"] == "deleted":
            break
    assert set(rows_naming(engine, other_workspace_id)) == STAYS
    assert files_naming(settings.objects, other_workspace_id) == []
    assert crash.happened > 20
    assert dying_objects.crash.happened > 3
    assert len(set(done)) > 5, "progress is told on the way"


KILLED = """
import sys
from sqlalchemy import event
from service.lifecycle.workspaces import delete_due_workspaces
from service.store.engine import make_engine, make_sessions

sessions = make_sessions(make_engine(sys.argv[1], pool_size=2, application_name="test"))
left = int(sys.argv[2])

def wait(session):
    global left
    left -= 1
    if left == 0:
        print("in the middle", flush=True)
        sys.stdin.read()

event.listen(sessions, "before_commit", wait)
delete_due_workspaces(sessions, seconds=60, cancel_seconds=15)
"""


@pytest.mark.parametrize("pieces", [1, 3, 7])
def test_another_process_goes_on_where_one_was_killed(
    client: TestClient, sessions: Sessions, objects: LocalObjects, engine: Engine, settings: Settings,
    other_workspace_id: str, pieces: int,
) -> None:  # fmt: skip
    fill(sessions, objects, other_workspace_id)
    ask(client, other_workspace_id)
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, url, str(pieces)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        # It holds the workspace meanwhile: nobody else works on it, and nobody waits.
        left = rows_naming(engine, other_workspace_id)
        delete_due_workspaces(sessions, seconds=60, cancel_seconds=15)
        assert rows_naming(engine, other_workspace_id) == left
        process.send_signal(signal.SIGKILL)
    carry_out(sessions, objects, other_workspace_id)
    assert set(rows_naming(engine, other_workspace_id)) == STAYS
    assert files_naming(settings.objects, other_workspace_id) == []


def test_several_processes_at_once_delete_it_once(
    client: TestClient, sessions: Sessions, objects: LocalObjects, engine: Engine, settings: Settings,
    other_workspace_id: str,
) -> None:  # fmt: skip
    fill(sessions, objects, other_workspace_id)
    start = Barrier(4)

    def request(_: int) -> dict[str, Any]:
        start.wait()
        return ask(client, other_workspace_id)

    def work(_: int) -> None:
        start.wait()
        carry_out(sessions, objects, other_workspace_id, rounds=1000)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(request, range(4))
        assert others == [first] * 3
        list(pool.map(work, range(4)))
    assert set(rows_naming(engine, other_workspace_id)) == STAYS
    assert files_naming(settings.objects, other_workspace_id) == []
    with sessions() as session:
        about = select(AuditLogEntry.action).where(AuditLogEntry.object_id == other_workspace_id)
        assert session.scalars(about.order_by(AuditLogEntry.id)).all() == ["workspace.delete", "workspace.deleted"]


def test_what_waits_never_starts_and_what_runs_is_cancelled(
    client: TestClient, sessions: Sessions, objects: LocalObjects, engine: Engine, settings: Settings,
    other_workspace_id: str, workspace_id: str,
) -> None:  # fmt: skip
    def take(owner: str) -> Claim | None:
        with sessions.begin() as session:
            return claim(session, lane="gpu", owner=owner)

    def states() -> list[str]:
        with sessions() as session:
            mine = select(Job.state).where(Job.workspace_id == other_workspace_id)
            return list(session.scalars(mine.order_by(Job.id)))

    with sessions.begin() as session:
        add_audit(session, other_workspace_id)
    running = take("w")
    assert running is not None
    with sessions.begin() as session:
        add_audit(session, other_workspace_id)
        beat(session, owner="idle", lane="gpu", host="h", pid=1)
    ask(client, other_workspace_id)
    assert states() == ["running", "queued"]
    assert take("idle") is None, "not even before it is cancelled"
    with sessions.begin() as session:
        assert wake_ups_due(session, "gpu", settings) == 0
    delete_due_workspaces(sessions, seconds=60, cancel_seconds=15)
    assert states() == ["cancelling", "cancelled"]
    assert deletion_of(client, other_workspace_id)["status"] == "stopping"
    with sessions.begin() as session:
        assert not publish(session, running, summary_of())
    # Its worker is gone: the reconciler takes the job back.
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.state == "cancelling").values(lease_expires_at=func.now()))
    with sessions.begin() as session:
        assert expire_one(session) is not None
    carry_out(sessions, objects, other_workspace_id)
    assert set(rows_naming(engine, other_workspace_id)) == STAYS
    with sessions.begin() as session:
        assert not mark_cancelled(session, running), "a worker that comes back writes nothing"
        mine = add_audit(session, workspace_id)
    found = take("idle")
    assert found is not None
    assert found.subject_id == mine.id


def test_keys_and_people_can_do_nothing_more_at_once(
    client: TestClient, make_client: MakeClient, anonymous_client: TestClient, sessions: Sessions,
    workspace_id: str, other_workspace_id: str, settings: Settings,
) -> None:  # fmt: skip
    tenant = make_client("admin", workspace=other_workspace_id)
    ada = Identity(
        issuer="https://i.example",
        subject="ada",
        email="ada@i.example",
        email_verified=True,
        name="Ada",
        groups=("g",),
    )
    settings = settings.model_copy(update={"group_roles": {"g": {"other": "editor"}}})
    with sessions.begin() as session:
        cookie = arrive(session, ada, settings)
        assert isinstance(cookie, str)
        both = add_person(session, other_workspace_id, "editor", name="Both")
        session.add(
            Membership(id=new_id("mbr"), workspace_id=workspace_id, user_id=both, role="viewer", given_by="admin")
        )
        invited = User(id=new_id("usr"), email="eve@i.example")
        session.add(invited)
        session.flush()
        session.add(
            Membership(
                id=new_id("mbr"), workspace_id=other_workspace_id, user_id=invited.id, role="viewer", given_by="admin"
            )
        )
    anonymous_client.cookies.set(COOKIE, cookie)
    for known in (tenant, anonymous_client):
        assert known.get("/v1/audits").status_code == 200
    ask(client, other_workspace_id)
    for known in (tenant, anonymous_client):
        assert known.get("/v1/audits").status_code == 401
        assert known.post("/v1/probes", json={}, headers=OURS).status_code == 401
    with sessions() as session:
        assert session.scalars(select(Membership.workspace_id)).all() == [workspace_id]
        assert set(session.scalars(select(User.name))) == {"Ada", "Both"}, "an invitation to nothing is gone"
        gone = [select(BrowserSession.id), select(SignInLink.key_id)]
        assert [session.scalars(query).all() for query in gone] == [[], []]
        assert all(session.scalars(select(ApiKey.revoked_at).where(ApiKey.workspace_id == other_workspace_id)))
    # Her groups give her a role in a workspace that there is no longer.
    with sessions.begin() as session:
        assert arrive(session, ada, settings) == PersonRefused("no_role")
    # A key that somebody has let in by a side door works no more than the others.
    assert make_client("admin", workspace=other_workspace_id).get("/v1/audits").status_code == 401
    body = {"name": "x", "scopes": ["admin"]}
    refused = client.post(f"/v1/workspaces/{other_workspace_id}/keys", json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "workspace_deleted")
    refused = client.patch(f"/v1/workspaces/{other_workspace_id}", json={"max_bytes": 5})
    assert (refused.status_code, refused.json()["code"]) == (409, "workspace_deleted")


def test_a_request_on_its_way_is_waited_for_or_refused(
    sessions: Sessions, settings: Settings, other_workspace_id: str
) -> None:
    """Whoever was let in before creates it before the deletion begins, which then finds it, or not at all."""

    def create() -> str:
        try:
            with sessions.begin() as session:
                check_probes(session, other_workspace_id, settings)
                add_probe(session, other_workspace_id)
        except ConflictError as error:
            return error.code
        return "created"

    def request() -> None:
        with sessions.begin() as session:
            request_deletion(session, workspace_id=other_workspace_id)

    with ThreadPoolExecutor(2) as pool, sessions.begin() as session:
        check_probes(session, other_workspace_id, settings)
        add_probe(session, other_workspace_id)
        asked = pool.submit(request)
        session.execute(text("SELECT pg_sleep(0.2)"))
        assert not asked.done()
        session.commit()
        asked.result(timeout=30)
    with sessions() as session:
        assert session.get_one(Workspace, other_workspace_id).deletion_total == 2
    assert create() == "workspace_deleted"
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Probe)) == 1


@pytest.mark.parametrize("name", ["", "Other", "other ", "default", None])
def test_without_its_name_nothing_is_deleted(
    client: TestClient, sessions: Sessions, other_workspace_id: str, name: str | None
) -> None:
    answer = client.delete(f"/v1/workspaces/{other_workspace_id}", params={} if name is None else {"name": name})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "query:name"
    assert answer.json()["code"] == ("invalid_request" if name is None else "workspace_name_wrong")
    assert deletion_of(client, other_workspace_id) is None


def test_who_may_not_delete_it(
    client: TestClient, make_client: MakeClient, sessions: Sessions, workspace_id: str, other_workspace_id: str
) -> None:
    with sessions.begin() as session:
        third = Workspace(id=new_id("ws"), name="third")
        session.add(third)
    tenant = make_client("admin", workspace=other_workspace_id)
    for who, whose, name, refused in [
        (tenant, third.id, "third", (404, "workspace_not_found")),
        (tenant, workspace_id, "default", (404, "workspace_not_found")),
        (tenant, other_workspace_id, "other", (403, "installation_admin_only")),
        (make_client("audits:write"), other_workspace_id, "other", (403, "scope_missing")),
        (client, "ws_none", "other", (404, "workspace_not_found")),
        (client, workspace_id, "default", (409, "first_workspace")),
    ]:
        answer = who.delete(f"/v1/workspaces/{whose}", params={"name": name})
        assert (answer.status_code, answer.json()["code"]) == refused, (whose, name)
    with sessions() as session:
        assert session.scalars(select(Workspace.deletion_requested_at)).all() == [None] * 3


def test_its_audit_log_is_read_by_admins_of_the_installation(
    client: TestClient, make_client: MakeClient, sessions: Sessions, objects: LocalObjects, workspace_id: str,
    other_workspace_id: str,
) -> None:  # fmt: skip
    tenant = make_client("admin", workspace=other_workspace_id)
    probe = tenant.post("/v1/probes", json={"name": "p", "items": [{"prompt": "a", "unwanted": "b"}]}).json()["id"]
    log = f"/v1/audit-log?workspace={other_workspace_id}"
    for who in (client, tenant):
        answer = who.get(log)
        assert (answer.status_code, answer.json()["code"]) == (404, "workspace_not_found"), "while there are readers"
    ask(client, other_workspace_id)
    carry_out(sessions, objects, other_workspace_id)
    (entry,) = client.get(log).json()["data"]
    assert (entry["action"], entry["object_id"], entry["key_name"]) == ("probe.create", probe, "test")
    newest = client.get("/v1/audit-log").json()["data"][:2]
    assert [(one["action"], one["object_id"], one["key_id"] is None) for one in newest] == [
        ("workspace.deleted", other_workspace_id, True),
        ("workspace.delete", other_workspace_id, False),
    ]
    with sessions.begin() as session:
        third = Workspace(id=new_id("ws"), name="third")
        session.add(third)
    assert make_client("admin", workspace=third.id).get(log).status_code == 404


def test_a_large_workspace_goes_in_short_transactions(
    client: TestClient, sessions: Sessions, objects: LocalObjects, engine: Engine, other_workspace_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """No transaction deletes more than a batch of rows, whatever there is of them."""
    monkeypatch.setattr("service.lifecycle.workspaces.BATCH", 7)
    monkeypatch.setattr("service.lifecycle.workspaces.STOPPED_AT_ONCE", 3)
    with sessions.begin() as session:
        for _ in range(10):
            add_audit(session, other_workspace_id)
            add_model(session, other_workspace_id)
    deleted: list[int] = []

    @event.listens_for(engine, "after_cursor_execute")
    def count(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        # Not what passes the readers' minute.
        if statement.startswith(("DELETE", "UPDATE")) and not statement.startswith("UPDATE audit_data"):
            deleted.append(cursor.rowcount)

    ask(client, other_workspace_id)
    carry_out(sessions, objects, other_workspace_id)
    assert max(deleted) == 7
    assert set(rows_naming(engine, other_workspace_id)) == STAYS
    with sessions() as session:
        assert session.scalars(select(Audit.id)).all() == []
