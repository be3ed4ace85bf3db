"""The page of workers and queue: what one can do where none works, and nothing of other workspaces but counts."""

import re

import pytest
from sqlalchemy import text

from service.lifecycle.job_rows import add_job
from service.lifecycle.jobs import claim
from service.lifecycle.workers import beat
from service.store.tables import Dataset
from service.web.pages.workers import KINDS
from tests.support.made_audits import make_export, make_published, make_queued
from tests.support.pages import Page, Sessions, SignIn


def test_without_workers_it_says_what_to_do(sign_in: SignIn) -> None:
    page = Page(sign_in().get("/workers").text)
    headings = [heading for _, heading in page.all("h2")]
    assert [heading for heading in headings if heading.endswith("has reported lately")] == [
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


@pytest.mark.parametrize(
    ("kind", "says"),
    [("dataset", "Near-duplicates of ours.jsonl"), ("version", "What has changed in ours.jsonl")],
)
def test_what_is_done_with_a_dataset_is_said(
    sign_in: SignIn, sessions: Sessions, workspace_id: str, kind: str, says: str
) -> None:
    with sessions.begin() as session:
        dataset = session.get(Dataset, make_queued(session, workspace_id, dataset_name="ours.jsonl").dataset_id)
        assert dataset is not None
        add_job(session, kind=kind, subject_id=dataset.id, workspace_id=workspace_id, request_id=None)
    assert says in Page(sign_in().get("/workers").text).text


def test_every_kind_of_job_has_words(sessions: Sessions) -> None:
    """Those that the database allows."""
    with sessions.begin() as session:
        allowed = session.scalar(
            text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'ck_jobs_kind'")
        )
    assert set(re.findall(r"'(\w+)'", allowed or "")) == set(KINDS)
