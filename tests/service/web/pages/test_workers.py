"""The page of workers and queue: what one can do where none works, and nothing of other workspaces but counts."""

from service.lifecycle.jobs import claim
from service.lifecycle.workers import beat
from tests.support.made_audits import make_export, make_published, make_queued
from tests.support.pages import Page, Sessions, SignIn


def test_without_workers_it_says_what_to_do(sign_in: SignIn) -> None:
    page = Page(sign_in().get("/workers").text)
    headings = [text for _, text in page.all("h2")]
    assert [text for text in headings if text.endswith("has reported lately")] == [
        "No gpu worker has reported lately",
        "No io worker has reported lately",
    ]
    assert "finetooth up starts both" in page.text
    assert "python -m worker.health gpu" in page.text


def test_of_other_workspaces_it_shows_counts(
    sign_in: SignIn, sessions: Sessions, workspace_id: str, other_workspace_id: str
) -> None:
    with sessions.begin() as session:
        beat(session, owner="one", lane="gpu", host="node-1", pid=7)
        beat(session, owner="two", lane="io", host="node-1", pid=8)
        export = make_export(session, make_published(session, workspace_id, dataset_name="done.jsonl"))
        held = make_queued(session, workspace_id, dataset_name="ours.jsonl")
        assert claim(session, lane="gpu", owner="one")
        waits = make_queued(session, workspace_id, dataset_name="waits.jsonl")
    page = Page(sign_in().get("/workers").text)
    assert "has reported lately" not in page.text
    links = {attrs["href"] for attrs, _ in page.all("a")}
    assert {f"/audits/{held.id}", f"/audits/{waits.id}", f"/audits/{export.audit_id}/exports"} <= links
    assert "Export of an audit of done.jsonl" in page.text
    assert "1 job of yours waits and 1 runs; of other workspaces 0 and 0. 1 worker, 0 idle." in page.text
    stranger = Page(sign_in(workspace=other_workspace_id).get("/workers").text)
    assert "0 jobs of yours wait and 0 run; of other workspaces 1 and 1." in stranger.text
    assert "a job of another workspace" in stranger.text
    for name in ("ours.jsonl", "waits.jsonl", "done.jsonl", "node-1", held.id):
        assert name not in stranger.text


def test_a_worker_whose_device_failed(sign_in: SignIn, sessions: Sessions) -> None:
    for failed in (True, False):
        with sessions.begin() as session:
            beat(session, owner="one", lane="gpu", host="node-1", pid=7, device_failed=failed)
        page = Page(sign_in().get("/workers").text)
        assert ("takes no jobs until it has passed a check" in page.text) == failed
        assert f"1 worker, {0 if failed else 1} idle." in page.text
