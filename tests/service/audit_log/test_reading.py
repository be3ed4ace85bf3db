"""The audit log is read by admins, kept as it was written, and swept when it is old."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.lifecycle.reconcile import Reconciler
from service.settings import Settings
from service.store.expiry import delete_old_log_entries
from service.store.local_objects import LocalObjects
from service.store.tables import AuditLogEntry
from tests.support.pages import Page

Sessions = sessionmaker[Session]
NOON = datetime(2100, 3, 1, 12, tzinfo=UTC)
"""Far ahead, so that no process sweeps these entries in the meantime."""


@pytest.fixture
def entries(sessions: Sessions, workspace_id: str, other_workspace_id: str) -> None:
    """Four of the workspace, an hour apart, and one of another."""
    rows = [
        ("log_1", "key_a", "audit.create", "aud_1"),
        ("log_2", "key_a", "verdict.set", "aud_1/findings/3"),
        ("log_3", "key_b", "audit.create", "aud_10"),
        ("log_4", "key_b", "key.revoke", "key_<b>"),
    ]
    with sessions.begin() as session:
        for number, (id, key, action, about) in enumerate(rows):
            values = {"id": id, "key_id": key, "key_name": "<i>n</i>", "action": action, "object_id": about}
            at = NOON + timedelta(hours=number)
            session.execute(insert(AuditLogEntry).values(workspace_id=workspace_id, at=at, **values))
        values = {"id": "log_5", "key_id": "key_c", "action": "audit.create", "object_id": "aud_1"}
        session.execute(insert(AuditLogEntry).values(workspace_id=other_workspace_id, at=NOON, **values))


@pytest.mark.usefixtures("entries")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["log_4", "log_3", "log_2", "log_1"]),
        ({"key": "key_a"}, ["log_2", "log_1"]),
        ({"action": "audit.create"}, ["log_3", "log_1"]),
        ({"object": "aud_1"}, ["log_2", "log_1"]),
        ({"object": "aud_"}, []),
        ({"since": "2100-03-01T13:00:00Z", "until": "2100-03-01T15:00:00+00:00"}, ["log_3", "log_2"]),
        ({"key": "key_b", "action": "audit.create", "object": "aud_10"}, ["log_3"]),
        ({"key": "key_c"}, []),
    ],
)
def test_filters(client: TestClient, query: dict[str, str], found: list[str]) -> None:
    answer = client.get("/v1/audit-log", params=query)
    assert [entry["id"] for entry in answer.json()["data"]] == found


@pytest.mark.usefixtures("entries")
def test_pages_and_what_is_no_filter(client: TestClient, make_client: Callable[..., TestClient]) -> None:
    first = client.get("/v1/audit-log", params={"limit": 3, "key": "key_b"}).json()
    assert not first["has_more"]
    first = client.get("/v1/audit-log", params={"limit": 3}).json()
    rest = client.get("/v1/audit-log", params={"after": first["next_after"]}).json()
    assert [entry["id"] for entry in rest["data"]] == ["log_1"]
    for wrong in ({"action": "audit.burn"}, {"since": "2100-03-01"}, {"until": "soon"}):
        assert client.get("/v1/audit-log", params=wrong).status_code == 422
    assert make_client("audits:write").get("/v1/audit-log").status_code == 403
    assert make_client("findings:read").get("/audit-log").status_code == 403


@pytest.mark.usefixtures("entries")
def test_the_page_has_the_same_filters_and_takes_names_for_text(
    client: TestClient, make_client: Callable[..., TestClient]
) -> None:
    answer = client.get("/audit-log")
    assert "<i>n" not in answer.text
    assert "key_<b>" in Page(answer.text).text
    query = "?who=key_a&action=verdict.set&object=aud_1&since=2100-03-01&until=2100-03-01"
    page = Page(client.get(f"/audit-log{query}").text)
    assert len(page.all("tr")) == 2
    assert {str(attrs["name"]): attrs["value"] for attrs, _ in page.all("input")} == {
        "who": "key_a",
        "object": "aud_1",
        "since": "2100-03-01",
        "until": "2100-03-01",
    }
    assert "No change matches" in client.get("/audit-log?since=2100-03-02").text
    for query in ("since=yesterday", "until=9999-12-31"):
        assert client.get(f"/audit-log?{query}").status_code == 422
    older = Page(client.get("/audit-log?limit=1&action=audit.create&who=").text).all("a", rel="next")[0][0]["href"]
    assert "action=audit.create" in str(older)
    assert "aud_1 " in Page(client.get(str(older)).text).text
    # Only admins are shown the way there.
    link = 'href="/audit-log"'
    assert link in client.get("/audits").text
    assert link not in make_client("audits:write").get("/audits").text


@pytest.mark.usefixtures("entries")
@pytest.mark.parametrize(
    "statement",
    [
        update(AuditLogEntry).values(key_id="somebody else"),
        delete(AuditLogEntry).where(AuditLogEntry.id == "log_1"),
        text("TRUNCATE audit_log"),
    ],
)
def test_the_database_refuses_to_change_the_log(sessions: Sessions, statement: object) -> None:
    with pytest.raises(DBAPIError, match="the audit log is only added to"), sessions.begin() as session:
        session.execute(statement)  # type: ignore[call-overload]


@pytest.mark.usefixtures("entries")
def test_entries_are_swept_when_they_are_old_and_by_nobody_else(sessions: Sessions) -> None:
    with sessions.begin() as session:
        age = session.execute(select(func.now())).scalar_one() - NOON
        # Between the second and the third entry.
        days = age - timedelta(hours=1, minutes=30)
        assert delete_old_log_entries(session, days=days / timedelta(days=1)) == 3  # type: ignore[arg-type]
        assert set(session.scalars(select(AuditLogEntry.id))) == {"log_3", "log_4"}
        with pytest.raises(DBAPIError, match="the audit log is only added to"), session.begin_nested():
            session.execute(delete(AuditLogEntry))


def test_whoever_reconciles_sweeps_entries_after_the_days_of_the_setting(
    sessions: Sessions, settings: Settings, workspace_id: str
) -> None:
    with sessions.begin() as session:
        for days in (29, 31):
            values = {"id": f"log_{days}", "key_id": "key_a", "action": "audit.create"}
            at = func.now() - timedelta(days=days)
            session.execute(insert(AuditLogEntry).values(workspace_id=workspace_id, at=at, **values))
    kept = settings.model_copy(update={"audit_log_days": 30})
    assert Reconciler(kept, sessions, LocalObjects(settings.objects), owner="r").round()
    with sessions() as session:
        assert session.scalars(select(AuditLogEntry.id)).all() == ["log_29"]


@pytest.mark.parametrize("query", ["until=0.5", "since=1795953417", "since=2026-11-29"])
def test_what_is_no_time_is_refused(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/audit-log?{query}")
    assert answer.status_code == 422, answer.text
