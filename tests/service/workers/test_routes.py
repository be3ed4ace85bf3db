"""What a workspace learns of workers and queues: its own jobs in the order of their turns, and counts of others."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.jobs import claim
from service.lifecycle.workers import Device, beat
from service.store.ids import new_id
from service.store.tables import Job, Workspace
from tests.support.builders import add_audit
from tests.support.made_audits import make_export, make_published

Sessions = sessionmaker[Session]


def lane(client: TestClient, name: str = "gpu") -> dict[str, Any]:
    return next(lane for lane in client.get("/v1/queue").json()["queues"] if lane["queue"] == name)


def waiting(client: TestClient) -> list[tuple[str, int | None]]:
    return [(job["subject_id"], job["position"]) for job in lane(client)["jobs"]]


def test_nothing_yet(client: TestClient) -> None:
    assert client.get("/v1/workers").json() == {"object": "list", "data": [], "has_more": False, "next_after": None}
    empty = dict.fromkeys(("workers", "idle", "running", "running_elsewhere", "queued", "queued_elsewhere"), 0)
    assert client.get("/v1/queue").json() == {
        "object": "queue",
        "queues": [{"queue": name, **empty, "jobs": []} for name in ("gpu", "io")],
    }


def test_a_worker_whose_device_failed_is_not_idle(client: TestClient, sessions: Sessions) -> None:
    for failed in (False, True, True, False):
        with sessions.begin() as session:
            beat(session, owner="w", lane="gpu", host="node-1", pid=7, device_failed=failed)
        (worker,) = client.get("/v1/workers").json()["data"]
        assert (worker["device_failed_at"] is not None) == failed
        assert (lane(client)["workers"], lane(client)["idle"]) == (1, 0 if failed else 1)


def test_who_works_on_what(
    client: TestClient, sessions: Sessions, workspace_id: str, make_client: Callable[..., TestClient],
    other_workspace_id: str,
) -> None:  # fmt: skip
    with sessions.begin() as session:
        for owner, kind in (("busy", "gpu"), ("idle", "gpu"), ("gone", "gpu"), ("files", "io")):
            device = Device("NVIDIA H200", 150 * 10**9, 20 * 10**9) if kind == "gpu" else None
            beat(session, owner=owner, lane=kind, host="node-1", pid=7, device=device)
        audit = add_audit(session, workspace_id)
        assert claim(session, lane="gpu", owner="busy")
    with sessions.begin() as session:
        session.execute(text("UPDATE workers SET seen_at = now() - interval '1 hour' WHERE owner = 'gone'"))
    found = client.get("/v1/workers").json()["data"]
    assert [(w["queue"], w["alive"], w["busy"], w["host"], w["device"]) for w in found] == [
        ("gpu", True, True, "node-1", "NVIDIA H200"),
        ("gpu", False, False, "node-1", "NVIDIA H200"),
        ("gpu", True, False, "node-1", "NVIDIA H200"),
        ("io", True, False, "node-1", None),
    ]
    assert (found[0]["memory_bytes"], found[0]["memory_used_bytes"]) == (150 * 10**9, 20 * 10**9)
    job = found[0]["job"]
    assert (job["kind"], job["subject_id"], job["status"], job["attempt"]) == ("audit", audit.id, "running", 1)
    since = datetime.now(UTC) - datetime.fromisoformat(job["started_at"])
    assert timedelta(0) <= since < timedelta(minutes=1)
    assert [worker["job"] for worker in found[1:]] == [None] * 3
    assert (lane(client)["workers"], lane(client)["idle"], lane(client)["running"]) == (2, 1, 1)

    # Another workspace, and one of ours that does not administer the installation.
    for other, own_job in ((make_client("admin", workspace=other_workspace_id), None), (make_client(), job)):
        answer = other.get("/v1/workers")
        assert "node-1" not in answer.text
        seen = answer.json()["data"]
        assert (seen[0]["busy"], seen[0]["job"], seen[0]["host"], seen[0]["pid"]) == (True, own_job, None, None)
        assert [w["id"] for w in seen] == [w["id"] for w in found]


def test_a_workspace_sees_its_own_queue_and_counts_of_others(
    client: TestClient, sessions: Sessions, workspace_id: str, make_client: Callable[..., TestClient],
    other_workspace_id: str,
) -> None:  # fmt: skip
    with sessions.begin() as session:
        ours = [add_audit(session, workspace_id).id for _ in range(3)]
        theirs = [add_audit(session, other_workspace_id).id for _ in range(2)]
    stranger = make_client(workspace=other_workspace_id)
    assert waiting(client) == [(ours[0], 1), (ours[1], 3), (ours[2], 5)]
    assert waiting(stranger) == [(theirs[0], 2), (theirs[1], 4)]
    assert (lane(client)["queued"], lane(client)["queued_elsewhere"]) == (3, 2)
    assert (lane(stranger)["queued"], lane(stranger)["queued_elsewhere"]) == (2, 3)
    for audit_id in ours:
        assert audit_id not in stranger.get("/v1/queue").text
    with sessions.begin() as session:
        assert claim(session, lane="gpu", owner="w")
    assert (lane(stranger)["running"], lane(stranger)["running_elsewhere"]) == (0, 1)
    assert waiting(stranger) == [(theirs[0], 1), (theirs[1], 3)]


def test_a_job_that_waits_after_a_failure_has_no_place_yet(
    client: TestClient, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        later, first = add_audit(session, workspace_id).id, add_audit(session, workspace_id).id
        job = session.scalars(select(Job).where(Job.subject_id == later)).one()
        job.next_attempt_at = datetime.now(UTC) + timedelta(hours=1)
    assert waiting(client) == [(first, 1), (later, None)]


def test_exports_wait_in_the_other_lane(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        export = make_export(session, make_published(session, workspace_id)).id
    assert [(job["kind"], job["subject_id"], job["position"]) for job in lane(client, "io")["jobs"]] == [
        ("export", export, 1)
    ]
    assert lane(client)["jobs"] == []


@pytest.mark.parametrize("queued", [(3, 2, 1), (1, 6, 0), (4, 4, 4)])
@pytest.mark.parametrize("running", [(0, 0, 0), (2, 0, 1), (0, 3, 1)])
def test_the_order_is_the_one_in_which_workers_take_jobs(
    sessions: Sessions, make_client: Callable[..., TestClient], queued: Sequence[int], running: Sequence[int]
) -> None:
    """Every position that was told beforehand is the one at which the job is taken."""
    with sessions.begin() as session:
        workspaces = [Workspace(id=new_id("ws"), name=f"w{number}") for number in range(3)]
        session.add_all(workspaces)
        session.flush()
        for number, workspace in enumerate(workspaces):
            for _ in range(running[number]):
                add_audit(session, workspace.id)
    for _ in range(sum(running)):
        with sessions.begin() as session:
            assert claim(session, lane="gpu", owner="w")
    for count, workspace in zip(queued, workspaces, strict=True):
        with sessions.begin() as session:
            for _ in range(count):
                add_audit(session, workspace.id)
    told: dict[int, str] = {}
    for workspace in workspaces:
        for subject, position in waiting(make_client(workspace=workspace.id)):
            assert position is not None
            told[position] = subject
    taken = []
    for number in range(sum(queued)):
        with sessions.begin() as session:
            held = claim(session, lane="gpu", owner=f"w{number}")
        assert held is not None
        taken.append(held.subject_id)
    assert [told[position] for position in range(1, sum(queued) + 1)] == taken
