"""No page keeps anybody out: axe-core finds nothing serious in either colour scheme, and a small telephone suffices."""

import json
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.contract.failure import ErrorCode, Failure
from service.lifecycle.jobs import fail
from service.lifecycle.workers import Device, beat
from service.store.tables import Finding, Probe
from tests.support.builders import add_person
from tests.support.made_audits import make_export, make_published, make_queued, take

pytestmark = pytest.mark.browser

Sessions = sessionmaker[Session]
OpenPage = Callable[..., Page]

LONG = "a-rather-long-name-without-spaces" * 4
MUCH = ("\u05d0\u05d1\u05d2 \u202eright to left\u202c zero\u200bwidth <b>bold</b> " * 25_000)[: 2**20]
"""A sample of a million characters, in both directions, with what cannot be seen."""

LARGE_ROW = 7


@pytest.fixture
def pages(sessions: Sessions, workspace_id: str) -> list[str]:
    """The address of every kind of page, with something on it."""
    with sessions.begin() as session:
        device = Device("NVIDIA H200", 150 * 10**9, 20 * 10**9)
        beat(session, owner="test-worker", lane="gpu", host="node-1", pid=7, device=device)
        done = make_published(session, workspace_id, dataset_name=LONG, probes=2, seeds=2)
        large = session.get_one(Finding, (done.id, done.published_attempt, LARGE_ROW))
        large.messages = [{"role": "user", "content": MUCH}, {"role": "assistant", "content": MUCH}]
        large.extra = {"source": MUCH}
        other = make_published(session, workspace_id, dataset_id=done.dataset_id, draw=2)
        make_export(session, done)
        failed = make_queued(session, workspace_id)
        assert fail(
            session, take(session, failed), Failure(code=ErrorCode.OUT_OF_MEMORY, message="Full.", hint="Less.")
        )
        running = make_queued(session, workspace_id)
        take(session, running)
        queued = make_queued(session, workspace_id)
        add_person(session, workspace_id, "reviewer", name=LONG)
        probe = session.scalars(select(Probe.id)).first()
    audit = f"/audits/{done.id}"
    return [
        "/audits", "/audits?search=nothing", audit, f"/audits/{failed.id}", f"/audits/{running.id}",
        f"/audits/{queued.id}", f"{audit}/findings", f"{audit}/findings?group=forum", f"{audit}/findings/5",
        f"{audit}/findings/{LARGE_ROW}", f"{audit}/exports", f"{audit}/verdicts?flagged=true&said=confirmed",
        f"/comparisons?base={done.id}&other={other.id}", f"/audits/new?copy={done.id}", "/datasets",
        f"/datasets/{done.dataset_id}", "/probes", f"/probes/{probe}", "/models", "/keys", "/people",
        "/workers", "/sessions", "/audit-log", "/audits/aud_missing",
    ]  # fmt: skip


EMPTY = ["/audits", "/datasets", "/probes", "/people", "/workers", "/audit-log", "/audits/new"]


def visit(page: Page, path: str) -> None:
    """Goes there, without waiting for pictures."""
    page.goto(path, wait_until="domcontentloaded", timeout=60_000)


def barriers(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical, in the light scheme, and of contrasts in the dark one too."""
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    found = []
    for scheme, options in (("light", None), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)
        for one in Axe().run(page, options=options).response["violations"]:
            if one["impact"] in ("serious", "critical"):
                found += [f"{page.url} {scheme} {one['id']} {node['html'][:300]}" for node in one["nodes"]]
    return found


@pytest.mark.timeout(900)
def test_axe_finds_no_serious_barrier_and_a_small_telephone_scrolls_nothing_sideways(
    signed_in: OpenPage, open_page: OpenPage, pages: list[str], complaints: list[str]
) -> None:
    page = signed_in()
    found = []
    for path in pages:
        page.set_viewport_size({"width": 1440, "height": 900})
        visit(page, path)
        found += barriers(page)
        page.set_viewport_size({"width": 360, "height": 740})
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > 360:
            found.append(f"{path} is {wide} pixels wide on a telephone")
    stranger = open_page()
    for path in ("/sign-in", "/sign-in?token=x", "/audits"):
        visit(stranger, path)
        found += barriers(stranger)
    assert not found, json.dumps(found, indent=1)
    complaints[:] = [line for line in complaints if "404" not in line and "401" not in line]


def test_axe_finds_no_serious_barrier_where_there_is_nothing_yet(signed_in: OpenPage) -> None:
    page = signed_in()
    for path in EMPTY:
        visit(page, path)
        assert barriers(page) == []
        # An empty list says what to do next.
        for box in page.locator(".empty").all():
            assert box.locator("a, code").count(), (path, box.inner_text())


def test_a_sample_of_a_megabyte_in_both_directions_is_shown_in_part_and_as_it_is(
    signed_in: OpenPage, pages: list[str]
) -> None:
    page = signed_in()
    visit(page, next(path for path in pages if path.endswith(f"/findings/{LARGE_ROW}")))
    shown = page.locator(".turns .text").first
    text = shown.inner_text()
    assert "U+202E" in text
    assert "<b>bold</b>" in text
    assert not {"\u202e", "\u202c", "\u200b"} & set(text)
    assert len(text) < 200_000
    assert page.get_by_text("more characters: the whole sample as JSON").count() == 2, "both turns"
    assert shown.evaluate("(node) => node.querySelectorAll(':not(.hidden-character)').length") == 0
    # Each paragraph has the direction of its own text, and the page its own.
    assert shown.evaluate("(node) => [getComputedStyle(node).unicodeBidi, node.dir]") == ["plaintext", "auto"]
    assert page.evaluate("getComputedStyle(document.documentElement).direction") == "ltr"
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
