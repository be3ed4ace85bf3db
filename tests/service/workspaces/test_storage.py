"""What a workspace stores, by kind, and what is refused where it stores as much as it may."""

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.lifecycle.audits import finish_step, start_step
from service.lifecycle.exports import publish_export
from service.lifecycle.jobs import claim
from service.settings import Settings
from tests.support.builders import add_audit, add_dataset
from tests.support.exportable import jsonl
from tests.support.made_audits import make_export, make_published

Sessions = sessionmaker[Session]
TUS = {"Tus-Resumable": "1.0.0"}


def storage(client: TestClient, workspace_id: str) -> dict[str, int]:
    found: dict[str, int] = client.get(f"/v1/workspaces/{workspace_id}/usage").json()["storage"]
    return found


def begin(client: TestClient, size: int) -> Any:
    return client.post("/v1/uploads", headers=TUS | {"Upload-Length": str(size)})


def test_what_is_stored_is_told_by_kind(
    client: TestClient, sessions: Sessions, workspace_id: str, other_workspace_id: str
) -> None:
    with sessions.begin() as session:
        add_dataset(session, other_workspace_id)
        done = make_published(session, workspace_id)
        make_export(session, done)
    before = storage(client, workspace_id)
    with sessions.begin() as session:
        add_audit(session, workspace_id)  # a dataset of 1,000 bytes
        held = claim(session, lane="gpu", owner="w")
        assert held is not None
        assert start_step(session, held, "train:7", "0" * 64)
        assert finish_step(session, held, "train:7", True, size=30)
        export = claim(session, lane="io", owner="w")
        assert export is not None
        assert publish_export(session, export, rows=1, bytes=500, sha256="0" * 64)
    assert begin(client, 77).status_code == 201
    now = storage(client, workspace_id)
    grown = {name: now[name] - before[name] for name in now if name != "limit"}
    assert grown == {"used": 1607, "uploads": 1077, "recordings": 30, "exports": 500}
    assert now["used"] == now["uploads"] + now["recordings"] + now["exports"]
    assert now["limit"] == 2**40


def test_an_upload_that_does_not_fit_is_refused_at_its_beginning(
    client: TestClient,
    make_client: Callable[..., TestClient],
    settings: Settings,
    other_workspace_id: str,
) -> None:
    content = jsonl(40)
    limit = len(content) + 10
    client.patch(f"/v1/workspaces/{other_workspace_id}", json={"max_bytes": limit}).raise_for_status()
    tenant = make_client("datasets:write", workspace=other_workspace_id)
    first = tenant.post("/v1/datasets", content=content)
    assert first.status_code == 201
    assert storage(tenant, other_workspace_id) | {"used": 0} == {
        "used": 0, "limit": limit, "uploads": len(content), "recordings": 0, "exports": 0,
    }  # fmt: skip
    files = {path for path in settings.data_dir.rglob("*") if path.is_file()}
    for refused in (begin(tenant, 11), tenant.post("/v1/datasets", content=content)):
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (507, "storage_quota")
        for words in (f"{len(content):,} of uploads", "0 of exports", f"may store {limit:,}", "Delete exports, audits"):
            assert words in problem["detail"]
    assert {path for path in settings.data_dir.rglob("*") if path.is_file()} == files
    # A length that is not told is found out at the end, and nothing stays.
    sent = tenant.post("/v1/datasets", content=iter([content]))
    assert (sent.status_code, sent.json()["code"]) == (507, "storage_quota")
    assert {path for path in settings.data_dir.rglob("*") if path.is_file()} == files
    assert begin(tenant, 10).status_code == 201
    client.patch(f"/v1/workspaces/{other_workspace_id}", json={"max_bytes": 4 * limit}).raise_for_status()
    assert tenant.post("/v1/datasets", content=content).status_code == 201
