"""Limits of a workspace: set by admins of the installation, held against those who come at once, and told in words."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.lifecycle.audits import publish
from service.lifecycle.jobs import Claim, claim
from service.lifecycle.workers import beat, wake_ups_due
from service.settings import Settings
from tests.support.builders import add_audit, add_dataset, add_model, add_probe, summary_of

Sessions = sessionmaker[Session]


def limit(client: TestClient, workspace_id: str, **limits: int | None) -> dict[str, Any]:
    response = client.patch(f"/v1/workspaces/{workspace_id}", json=limits)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def usage(client: TestClient, workspace_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.get(f"/v1/workspaces/{workspace_id}/usage").json()
    return answer


def test_limits_are_set_kept_and_taken_away(client: TestClient, workspace_id: str, other_workspace_id: str) -> None:
    assert usage(client, other_workspace_id)["queued_audits"] == {"used": 0, "limit": 200}
    assert usage(client, other_workspace_id)["running_audits"] == {"used": 0, "limit": None}
    changed = limit(client, other_workspace_id, max_queued_audits=7, max_running_audits=2)
    assert (changed["max_queued_audits"], changed["max_running_audits"], changed["max_bytes"]) == (7, 2, None)
    # What is left out stays.
    changed = limit(client, other_workspace_id, max_queued_audits=None)
    assert (changed["max_queued_audits"], changed["max_running_audits"]) == (None, 2)
    assert client.get(f"/v1/workspaces/{other_workspace_id}").json() == changed
    assert usage(client, other_workspace_id)["running_audits"] == {"used": 0, "limit": 2}
    assert usage(client, workspace_id)["running_audits"]["limit"] is None
    for wrong in ({"max_running_audits": 0}, {"max_queued_audits": 2**31}, {"max_bytes": -1}, {"max": 1}):
        assert client.patch(f"/v1/workspaces/{other_workspace_id}", json=wrong).status_code == 422, wrong


def test_a_tenant_sees_its_limits_and_sets_none(
    make_client: Callable[..., TestClient], workspace_id: str, other_workspace_id: str
) -> None:
    tenant = make_client("admin", workspace=other_workspace_id)
    response = tenant.patch(f"/v1/workspaces/{other_workspace_id}", json={"max_queued_audits": 10**6})
    assert (response.status_code, response.json()["code"]) == (403, "installation_admin_only")
    reader = make_client(workspace=other_workspace_id)
    assert usage(reader, other_workspace_id)["workspace_id"] == other_workspace_id
    assert usage(reader, workspace_id)["code"] == "workspace_not_found"


def test_the_queue_of_a_workspace_is_full_by_its_own_limit(
    client: TestClient, make_client: Callable[..., TestClient], sessions: Sessions, other_workspace_id: str
) -> None:
    with sessions.begin() as session:
        body = {
            "dataset_id": add_dataset(session, other_workspace_id),
            "probe_ids": [add_probe(session, other_workspace_id)],
            "model_id": add_model(session, other_workspace_id),
        }
    limit(client, other_workspace_id, max_queued_audits=2)
    tenant = make_client("audits:write", workspace=other_workspace_id)
    start = Barrier(6)

    def create(_: int) -> int:
        start.wait()
        return tenant.post("/v1/audits", json=body).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(create, range(6))) == [202, 202, 409, 409, 409, 409]
    refused = tenant.post("/v1/audits", json=body).json()
    assert refused["code"] == "queued_audits_quota"
    for words in ("2 audits of this workspace are queued", "it may queue 2", "cancel some", "admin"):
        assert words in refused["detail"]
    assert usage(tenant, other_workspace_id)["queued_audits"] == {"used": 2, "limit": 2}
    limit(client, other_workspace_id, max_queued_audits=3)
    assert tenant.post("/v1/audits", json=body).status_code == 202


def take(sessions: Sessions, owner: str, max_running: int | None = None) -> Claim | None:
    with sessions.begin() as session:
        return claim(session, lane="gpu", owner=owner, max_running=max_running)


@pytest.mark.parametrize("own", [True, False])
def test_no_more_run_than_may(
    client: TestClient, sessions: Sessions, settings: Settings, workspace_id: str, own: bool
) -> None:
    """Eight workers come at once; the limit is the workspace's own, or the setting's."""
    settings = settings.model_copy(update={"max_running_audits": 5 if own else 3})
    if own:
        limit(client, workspace_id, max_running_audits=3)
    with sessions.begin() as session:
        for _ in range(10):
            add_audit(session, workspace_id)
    start = Barrier(8)

    def work(number: int) -> Claim | None:
        start.wait()
        return take(sessions, f"w{number}", settings.max_running_audits)

    with ThreadPoolExecutor(8) as pool:
        held = [found for found in pool.map(work, range(8)) if found is not None]
    assert len(held) == 3
    with sessions.begin() as session:
        beat(session, owner="idle", lane="gpu", host="h", pid=1)
        assert wake_ups_due(session, "gpu", settings) == 0, "nothing can be taken"
        assert publish(session, held[0], summary_of())
        assert wake_ups_due(session, "gpu", settings) == 1
    assert take(sessions, "next", settings.max_running_audits) is not None
    assert take(sessions, "another", settings.max_running_audits) is None


def test_a_waiting_audit_says_that_the_limit_is_reached(
    client: TestClient, sessions: Sessions, workspace_id: str
) -> None:
    limit(client, workspace_id, max_running_audits=1)
    with sessions.begin() as session:
        beat(session, owner="idle", lane="gpu", host="h", pid=1)
        add_audit(session, workspace_id)
        waits = add_audit(session, workspace_id).id
    assert take(sessions, "w") is not None
    told = client.get(f"/v1/audits/{waits}").json()["waiting"]
    assert told["reason"] == (
        "As many audits of this workspace run as may at once: 1. The next one starts when one of them ends."
    )
    assert told["expected_start_at"] is None
    assert usage(client, workspace_id)["running_audits"] == {"used": 1, "limit": 1}
    limit(client, workspace_id, max_running_audits=None)
    assert client.get(f"/v1/audits/{waits}").json()["waiting"]["position"] == 1
