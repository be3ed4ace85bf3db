"""What a waiting audit is told: its position, when it may start, and why it waits."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from service.contract.protocol import ProgressEvent, Stage
from service.lifecycle.audits import publish, record_progress
from service.lifecycle.jobs import Claim, claim
from service.lifecycle.workers import beat
from service.store.ids import new_id
from service.store.tables import Job, Workspace
from service.workers import waiting
from tests.support.builders import add_audit, summary_of

Sessions = sessionmaker[Session]


def told(client: TestClient, audit_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.get(f"/v1/audits/{audit_id}").json()["waiting"]
    (listed,) = [audit for audit in client.get("/v1/audits").json()["data"] if audit["id"] == audit_id]
    assert listed["waiting"]["position"] == answer["position"]
    queued = client.get("/v1/queue").json()["queues"][0]["jobs"]
    (job,) = [job for job in queued if job["subject_id"] == audit_id]
    assert (job["position"], job["reason"]) == (answer["position"], answer["reason"])
    return answer


def after(answer: dict[str, Any]) -> float:
    """Seconds from now to the expected start."""
    return (datetime.fromisoformat(answer["expected_start_at"]) - datetime.now(UTC)).total_seconds()


def live(sessions: Sessions, *owners: str, failed: bool = False) -> None:
    with sessions.begin() as session:
        for owner in owners:
            beat(session, owner=owner, lane="gpu", host="node", pid=1, device_failed=failed)


def add(sessions: Sessions, workspace_id: str, count: int = 1) -> list[str]:
    with sessions.begin() as session:
        return [add_audit(session, workspace_id).id for _ in range(count)]


def take(sessions: Sessions, owner: str, max_running: int | None = None) -> Claim:
    with sessions.begin() as session:
        held = claim(session, lane="gpu", owner=owner, max_running=max_running)
    assert held is not None
    return held


def took(sessions: Sessions, workspace_id: str, seconds: int) -> None:
    """An audit that has succeeded after so long."""
    add(sessions, workspace_id)
    held = take(sessions, "before")
    with sessions.begin() as session:
        assert publish(session, held, summary_of())
        started = text("UPDATE jobs SET started_at = finished_at - :took * interval '1 second' WHERE id = :id")
        session.execute(started, {"took": seconds, "id": held.job_id})


def test_from_no_worker_to_an_expected_start(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    first, second, third = add(sessions, workspace_id, 3)
    assert told(client, second) == {
        "position": 2,
        "expected_start_at": None,
        "reason": "No worker that takes audits is alive. It starts when one does.",
    }
    live(sessions, "w", failed=True)
    assert told(client, first)["reason"].startswith("The device of every worker")
    live(sessions, "w")
    assert told(client, first) == {
        "position": 1,
        "expected_start_at": None,
        "reason": "A worker is idle, and takes it within seconds.",
    }
    assert told(client, second)["reason"].startswith("All workers are busy, and no audits have succeeded yet")
    held = take(sessions, "w")
    assert client.get(f"/v1/audits/{first}").json()["waiting"] is None
    with sessions.begin() as session:
        event = ProgressEvent(stage=Stage.TRAINING, done=1, total=10, unit="steps", eta_seconds=300)
        assert record_progress(session, held, event)
    soon = told(client, second)
    assert (soon["position"], soon["reason"]) == (1, "All workers are busy.")
    assert after(soon) == pytest.approx(300, abs=10)
    assert (told(client, third)["position"], told(client, third)["expected_start_at"]) == (2, None)
    with sessions.begin() as session:
        assert publish(session, held, summary_of())
        session.execute(text("UPDATE jobs SET started_at = finished_at - interval '40 s' WHERE state = 'succeeded'"))
    take(sessions, "w")
    # Without an ETA of its own the one that runs takes as long as the last one.
    assert after(told(client, third)) == pytest.approx(40, abs=10)


def test_times_are_the_workspaces_own_where_it_has_some(
    client: TestClient, sessions: Sessions, workspace_id: str, other_workspace_id: str,
    make_client: Callable[..., TestClient],
) -> None:  # fmt: skip
    for seconds in (100, 200, 6000):
        took(sessions, workspace_id, seconds)
    took(sessions, other_workspace_id, 1000)
    live(sessions, "w")
    (theirs,) = add(sessions, other_workspace_id)
    take(sessions, "w")
    (ours, next_of_ours) = add(sessions, workspace_id, 2)
    assert after(told(client, ours)) == pytest.approx(1000, abs=10)
    assert after(told(client, next_of_ours)) == pytest.approx(1200, abs=10), "200 s is the median of ours"
    stranger = make_client(workspace=other_workspace_id)
    assert stranger.get(f"/v1/audits/{theirs}").json()["waiting"] is None


def test_who_failed_waits_out_its_pause(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    (audit_id,) = add(sessions, workspace_id)
    with sessions.begin() as session:
        job = session.scalars(select(Job).where(Job.subject_id == audit_id)).one()
        job.next_attempt_at = datetime.now(UTC) + timedelta(hours=1)
    assert told(client, audit_id) == {
        "position": None,
        "expected_start_at": None,
        "reason": "It failed, and is tried again after a while.",
    }


def test_far_behind(client: TestClient, sessions: Sessions, workspace_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POSITIONS_SOUGHT", 2)
    ids = add(sessions, workspace_id, 3)
    live(sessions, "w")
    assert [told(client, audit_id)["position"] for audit_id in ids] == [1, 2, None]
    assert "not among the first 2" in told(client, ids[2])["reason"]


def test_a_poller_is_told_of_another_place(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    ids = add(sessions, workspace_id, 3)
    tag = client.get(f"/v1/audits/{ids[2]}").headers["etag"]
    known = {"If-None-Match": tag}
    assert client.get(f"/v1/audits/{ids[2]}", headers=known).status_code == 304
    assert client.post(f"/v1/audits/{ids[0]}/cancel").status_code == 202
    changed = client.get(f"/v1/audits/{ids[2]}", headers=known)
    assert (changed.status_code, changed.json()["waiting"]["position"]) == (200, 2)


@pytest.mark.parametrize("queued", [(4, 2, 1), (1, 6, 0), (3, 3, 3)])
@pytest.mark.parametrize("limits", [(None, None, None), (1, None, 2)])
def test_the_forecast_is_what_happens(
    sessions: Sessions, make_client: Callable[..., TestClient], queued: Sequence[int], limits: Sequence[int | None]
) -> None:
    """Two workers, every audit as long as the others: each is taken at the position that it was told."""
    with sessions.begin() as session:
        workspaces = [
            Workspace(id=new_id("ws"), name=f"w{number}", max_running_audits=limit)
            for number, limit in enumerate(limits)
        ]
        session.add_all(workspaces)
    took(sessions, workspaces[0].id, 60)
    for count, workspace in zip(queued, workspaces, strict=True):
        add(sessions, workspace.id, count)
    live(sessions, "w0", "w1")
    positions: dict[int, str] = {}
    for workspace in workspaces:
        for job in make_client(workspace=workspace.id).get("/v1/queue").json()["queues"][0]["jobs"]:
            positions[job["position"]] = job["subject_id"]
    taken, running = [], []
    while len(taken) < sum(queued):
        with sessions.begin() as session:
            held = None if len(running) == 2 else claim(session, lane="gpu", owner=f"w{len(taken)}")
        if held is None:
            with sessions.begin() as session:
                assert publish(session, running.pop(0), summary_of())
            continue
        running.append(held)
        taken.append(held.subject_id)
    assert [positions[position] for position in range(1, sum(queued) + 1)] == taken
