"""All audits that wait, or run, are cancelled by one request: over REST, on the page, and from the command line."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient
from typer.testing import CliRunner

from service.audits import actions
from service.cli.app import app as command
from service.lifecycle.jobs import claim
from service.settings import Settings
from service.store.tables import Audit, AuditLogEntry, Job
from tests.support.builders import add_audit
from tests.support.live_api import live_api

Sessions = sessionmaker[Session]


def add(sessions: Sessions, workspace_id: str, count: int = 1, **columns: Any) -> list[str]:
    with sessions.begin() as session:
        audits = [add_audit(session, workspace_id) for _ in range(count)]
        for audit in audits:
            for name, value in columns.items():
                setattr(audit, name, value)
        return [audit.id for audit in audits]


def states(sessions: Sessions) -> dict[str, str]:
    with sessions() as session:
        rows = session.execute(select(Audit.id, Job.state).join(Job, Job.id == Audit.job_id)).all()
    return {audit_id: state for audit_id, state in rows}  # noqa: C416  # rows are no plain pairs


def cancel(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/audits/cancel", json=body)
    assert response.status_code == 202, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_what_waits_is_cancelled_and_nothing_else(
    client: TestClient, sessions: Sessions, workspace_id: str, other_workspace_id: str
) -> None:
    (running,) = add(sessions, workspace_id)
    with sessions.begin() as session:
        assert claim(session, lane="gpu", owner="w") is not None
    queued, (theirs,) = add(sessions, workspace_id, 3), add(sessions, other_workspace_id)
    assert cancel(client) == {"object": "audits.cancelled", "audit_ids": queued, "has_more": False}
    assert states(sessions) == dict.fromkeys(queued, "cancelled") | {running: "running", theirs: "queued"}
    assert cancel(client)["audit_ids"] == []
    assert cancel(client, status="running")["audit_ids"] == [running]
    assert states(sessions)[running] == "cancelling"
    with sessions() as session:
        logged = session.scalars(select(AuditLogEntry).order_by(AuditLogEntry.id)).all()
    assert [(entry.action, entry.object_id, entry.count) for entry in logged] == [
        ("audit.cancel", None, 3), ("audit.cancel", None, 0), ("audit.cancel", None, 1),
    ]  # fmt: skip
    for event in client.get(f"/v1/audits/{queued[0]}/events").json()["data"][-1:]:
        assert event["message"] == "Cancelled before it started."


def test_those_of_one_creator(
    client: TestClient, make_client: Callable[..., TestClient], sessions: Sessions, workspace_id: str
) -> None:
    of_key, of_person = add(sessions, workspace_id, key_id="key_x"), add(sessions, workspace_id, user_id="usr_y")
    nobodys = add(sessions, workspace_id)
    (key,) = client.get("/v1/keys").json()["data"]
    mine = add(sessions, workspace_id, key_id=key["id"])
    assert cancel(client, created_by="me")["audit_ids"] == mine
    assert cancel(client, created_by="usr_y")["audit_ids"] == of_person
    assert cancel(client, created_by="key_x")["audit_ids"] == of_key
    assert states(sessions)[nobodys[0]] == "queued"
    refused = make_client("findings:read").post("/v1/audits/cancel", json={})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    for wrong in ({"status": "succeeded"}, {"by": "me"}, {"created_by": ""}):
        assert client.post("/v1/audits/cancel", json=wrong).status_code == 422, wrong


def test_more_than_one_request_cancels(
    client: TestClient, sessions: Sessions, workspace_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "CANCELLED_AT_ONCE", 2)
    queued = add(sessions, workspace_id, 3)
    answers = [cancel(client) for _ in range(2)]
    assert [(answer["audit_ids"], answer["has_more"]) for answer in answers] == [
        (queued[:2], True), (queued[2:], False),
    ]  # fmt: skip


def test_workers_that_claim_meanwhile(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    """Each audit is either taken or cancelled, and what a worker has taken is not cancelled behind its back."""
    queued = add(sessions, workspace_id, 30)
    start = Barrier(5)

    def work(number: int) -> list[str]:
        start.wait()
        taken = []
        for _ in range(4):
            with sessions.begin() as session:
                held = claim(session, lane="gpu", owner=f"w{number}")
            if held is not None:
                taken.append(held.subject_id)
        return taken

    with ThreadPoolExecutor(5) as pool:
        workers = [pool.submit(work, number) for number in range(4)]
        start.wait()
        cancelled = cancel(client)["audit_ids"]
        taken = [audit_id for worker in workers for audit_id in worker.result()]
    assert sorted(taken + cancelled) == sorted(queued)
    found = states(sessions)
    assert {found[audit_id] for audit_id in cancelled} == {"cancelled"}
    assert {found[audit_id] for audit_id in taken} <= {"running"}


def test_from_the_command_line(
    settings: Settings, sessions: Sessions, workspace_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued = add(sessions, workspace_id, 2)
    with live_api(settings) as api:
        monkeypatch.setenv("FINETOOTH_URL", api.url)
        monkeypatch.setenv("FINETOOTH_API_KEY", api.key)
        result = CliRunner().invoke(command, ["cancel-all", "--created-by", "key_x"])
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "0 audits cancelled\n")
        result = CliRunner().invoke(command, ["cancel-all"])
        assert (result.exit_code, result.stdout.split(), result.stderr) == (0, queued, "2 audits cancelled\n")
    assert set(states(sessions).values()) == {"cancelled"}
