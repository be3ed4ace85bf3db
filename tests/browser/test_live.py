"""What runs is seen to run: the audit's page by its stream, the pages of workers and queue."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from service.audits.live import event_stream
from service.contract.failure import ErrorCode, Failure
from service.contract.protocol import ProgressEvent, Stage
from service.lifecycle.audits import publish, record_event, record_progress, start_step
from service.lifecycle.jobs import Claim, fail
from service.lifecycle.workers import Device, beat
from tests.support.made_audits import (
    add_scores,
    make_published,
    make_queued,
    make_scores,
    record_metric,
    summarise,
    take,
)

pytestmark = pytest.mark.browser

Sessions = sessionmaker[Session]
OpenPage = Callable[..., Page]

SHIFTS = """
  window.shifts = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const moved = entry.sources.map(({ node }) => node?.className || node?.textContent);
      window.shifts.push([entry.value, ...moved]);
    }
  }).observe({ type: 'layout-shift', buffered: true });
"""
"""Collects what moved on a page without anybody touching it."""


def trains(sessions: Sessions, taken: Claim, done: int, metrics: bool = True) -> None:
    with sessions.begin() as session:
        event = ProgressEvent(stage=Stage.TRAINING, done=done, total=30, unit="steps", eta_seconds=600)
        assert record_progress(session, taken, event)
        if metrics:
            record_metric(session, taken, done)


@pytest.mark.parametrize("width", [1440, 390])
def test_a_run_is_followed_by_its_stream_and_nothing_moves(
    signed_in: OpenPage, sessions: Sessions, workspace_id: str, width: int
) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
    page = signed_in(width=width)
    page.add_init_script(SHIFTS)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"/audits/{audit.id}")
    expect(page.get_by_role("heading", name="Waiting for a free worker")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel the audit")).to_be_enabled()

    with sessions.begin() as session:
        taken = take(session, audit)
        assert start_step(session, taken, "train:7", "a" * 64)
    expect(page.get_by_role("heading", name="Preparing")).to_be_visible()
    for done in (1, 2, 3, 4, 5):
        trains(sessions, taken, done)
    expect(page.locator("[data-progress=done]")).to_have_text("5")
    expect(page.locator(".progress-numbers")).to_contain_text("about 10 min left")
    expect(page.locator("#pace-loss")).to_have_text("1.900")
    expect(page.locator("#pace-probe-loss")).to_have_text("2.440")
    assert float(page.locator("#pace-samples").inner_text().replace(",", "")) > 0
    expect(page.locator("#loss img")).to_be_visible()
    with sessions.begin() as session:
        assert record_event(session, taken, level="warning", type="notice", message="Mind the step.")
    expect(page.locator(".events")).to_contain_text("Mind the step.")
    page.evaluate("document.querySelector('#loss img').decode()")
    assert page.evaluate("window.shifts") == []

    with sessions.begin() as session:
        assert fail(session, taken, Failure(code=ErrorCode.OUT_OF_MEMORY, message="Full.", hint="Lower batch_size."))
    expect(page.get_by_role("heading", name="The audit failed")).to_be_visible()
    expect(page.get_by_role("button", name="Retry")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel the audit")).to_have_count(0)
    # One page and one stream; what changed was never asked for.
    assert len([url for url in asked if url.endswith(f"/audits/{audit.id}")]) == 1
    assert len([url for url in asked if url.endswith("/live")]) == 1
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("button", name="Cancel the audit").click()
    expect(page.get_by_role("heading", name="This audit was cancelled")).to_be_visible()


def test_what_the_reader_holds_stays_while_the_page_changes(
    signed_in: OpenPage, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
        taken = take(session, audit)
        assert start_step(session, taken, "train:7", "a" * 64)
    page = signed_in()
    page.goto(f"/audits/{audit.id}")
    page.get_by_role("link", name="as JSON", exact=True).focus()
    page.locator("#settings").evaluate("(node) => { window.kept = node; }")
    trains(sessions, taken, 3)
    expect(page.locator("[data-progress=done]")).to_have_text("3")
    assert page.evaluate("document.activeElement.textContent") == "as JSON"
    assert page.evaluate("window.kept.isConnected")
    scores = make_scores(120, 21)
    with sessions.begin() as session:
        add_scores(session, audit.id, taken.attempt, scores)
        assert publish(session, taken, summarise(scores))
    expect(page.get_by_text("Finetooth flags 21 of 120 samples")).to_be_visible()
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_a_lost_connection_is_told_and_the_stream_goes_on(
    signed_in: OpenPage, sessions: Sessions, workspace_id: str, complaints: list[str]
) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
        taken = take(session, audit)
    page = signed_in()
    page.goto(f"/audits/{audit.id}")
    expect(page.get_by_role("heading", name="Preparing")).to_be_visible()
    page.wait_for_timeout(500)
    # Every connection of the browser's breaks off.
    page.context.set_offline(True)
    with sessions.begin() as session:
        assert start_step(session, taken, "train:7", "a" * 64)
    page.context.set_offline(False)
    trains(sessions, taken, 7)
    expect(page.locator("[data-progress=done]")).to_have_text("7")
    expect(page.locator("#connection")).to_be_hidden()
    complaints[:] = [line for line in complaints if "ERR_INTERNET_DISCONNECTED" not in line]


def test_who_is_signed_out_meanwhile_is_told(
    signed_in: OpenPage, sessions: Sessions, workspace_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "AUTHENTICATED_SECONDS", 0.2)
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.3)
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
    page = signed_in()
    page.goto(f"/audits/{audit.id}")
    expect(page.get_by_role("heading", name="Waiting for a free worker")).to_be_visible()
    with sessions.begin() as session:
        session.execute(text("DELETE FROM browser_sessions"))
    expect(page.locator("#connection")).to_contain_text("You are signed out. Sign in again")


def test_workers_and_queue_are_seen_to_change(signed_in: OpenPage, sessions: Sessions, workspace_id: str) -> None:
    page = signed_in()
    page.get_by_role("link", name="Workers").click()
    expect(page.get_by_role("heading", name="No gpu worker has reported lately")).to_be_visible()
    expect(page.get_by_text("finetooth up").first).to_be_visible()
    with sessions.begin() as session:
        device = Device("NVIDIA H200", 150 * 10**9, 20 * 10**9)
        beat(session, owner="test-worker", lane="gpu", host="node-1", pid=7, device=device)
        audits = [make_queued(session, workspace_id, dataset_name=f"set-{number}.jsonl") for number in range(2)]
        take(session, audits[0])
    row = page.locator("tr[data-worker]")
    expect(row).to_contain_text("busy")
    expect(row).to_contain_text("Audit of set-0.jsonl since just now")
    expect(row).to_contain_text("20.0 GB of 150 GB used")
    expect(row).to_contain_text("node-1, process 7")
    expect(page.locator(f"tr[data-job={audits[1].id}]")).to_contain_text("Audit of set-1.jsonl")
    exact = row.locator("time").last.get_attribute("title")
    assert exact is not None
    assert exact.endswith(" UTC")


def test_audits_are_found_by_name_state_and_who_made_them(
    signed_in: OpenPage, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        for name in ("plants.jsonl", "chats_2.jsonl", "chatsX2.jsonl"):
            make_queued(session, workspace_id, dataset_name=name)
    page = signed_in()
    listed = page.locator("tr[data-audit]")
    expect(listed).to_have_count(3)
    page.get_by_label("Name of the dataset, probe or model").fill("S_2")
    page.get_by_role("button", name="Show").click()
    expect(listed).to_have_count(1)
    expect(listed).to_contain_text("chats_2.jsonl")
    page.get_by_role("navigation", name="Status").get_by_role("link", name="Failed").click()
    expect(page.locator(".empty")).to_contain_text("is failed now and has “S_2” in the name")
    page.get_by_role("link", name="Show all audits").click()
    expect(listed).to_have_count(3)
    page.get_by_label("Only mine").check()
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".empty")).to_contain_text("Only mine")


def test_how_long_ago_it_was_keeps_up_and_the_exact_time_is_behind_it(
    signed_in: OpenPage, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        created = make_published(session, workspace_id).created_at
    page = signed_in()
    page.clock.install()
    page.goto("/datasets")
    shown = page.locator("tbody time")
    expect(shown).to_have_text(re.compile("^(just now|1 minute ago)$"))
    title = shown.get_attribute("title")
    assert title is not None
    assert abs(datetime.strptime(title, "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC) - created) < timedelta(minutes=1)
    day = created.date().isoformat()
    for hours, words in ((2, "2 hours ago"), (46, "2 days ago"), (960, day)):
        page.clock.fast_forward(hours * 3_600_000)
        expect(shown).to_have_text(words)
