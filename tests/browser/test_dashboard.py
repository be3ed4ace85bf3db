"""The dashboard as a person meets it, in a real browser."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session, sessionmaker

from service.contract.protocol import ProgressEvent, Stage
from service.lifecycle.audits import publish, record_progress, start_step
from tests.support.made_audits import (
    HOSTILE,
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

INK = """(image) => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const count = {};
  for (let i = 0; i < pixels.length; i += 4) {
    if (pixels[i + 3] < 255) continue;
    const colour = [pixels[i], pixels[i + 1], pixels[i + 2]].map((c) => c.toString(16).padStart(2, '0')).join('');
    count[colour] = (count[colour] || 0) + 1;
  }
  return count;
}"""
"""How many opaque pixels of each colour a picture has, as the browser drew it."""


@pytest.fixture
def published(sessions: Sessions, workspace_id: str) -> str:
    with sessions.begin() as session:
        return make_published(session, workspace_id).id


def wait_for_pictures(page: Page) -> None:
    """Until the browser has decoded every picture that shows; one that is broken fails."""
    page.evaluate("""Promise.all([...document.images].filter((image) => image.checkVisibility()).map((image) => {
      image.loading = 'eager';  // one further down would wait for ever
      return image.decode();
    }))""")


def test_a_one_time_link_signs_in_and_signing_out_ends_it(
    open_page: OpenPage, link: Callable[[], str], published: str, complaints: list[str]
) -> None:
    page = open_page()
    page.goto("/audits")
    expect(page.get_by_role("heading", level=1)).to_have_text("Please sign in")
    expect(page.get_by_text("finetooth up")).to_be_visible()
    address = link()
    page.goto(address)
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in to Finetooth")
    assert page.context.cookies() == []
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{page.url.split('/sign-in')[0].split('/audits')[0]}/audits")
    expect(page.get_by_role("link", name="chats.jsonl")).to_be_visible()
    assert page.context.cookies()[0]["httpOnly"]
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Please sign in")
    page.goto(address)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This link no longer works")
    assert complaints, "Chromium reports the refusals that this test asked for"
    complaints[:] = [line for line in complaints if "401" not in line and "403" not in line]


def test_from_the_list_to_a_samples_text(signed_in: OpenPage, published: str) -> None:
    page = signed_in()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="chats.jsonl"))
    expect(row).to_contain_text("succeeded")
    expect(row).to_contain_text("21 of 120")
    row.get_by_role("link", name="chats.jsonl").click()
    expect(page.get_by_text("Finetooth flags 21 of 120 samples; at q = 0.05 about 1 of them")).to_be_visible()

    wait_for_pictures(page)
    drawn = page.locator("#histogram img").evaluate(INK)
    assert drawn["9fb0c3"] > 5_000, "the bulk"
    assert drawn["c2410c"] > 2_000, "the flagged tail and the threshold"
    assert drawn["1d5fa8"] > 200, "the null"
    assert page.locator("#loss img").evaluate(INK)["1d5fa8"] > 200
    for name in ("calibration", "sensitivity", "drift"):
        assert page.locator(f"img[src*='{name}.svg']").evaluate(INK)["1d5fa8"] > 50, name

    page.get_by_role("link", name="All 21 flagged").click()
    expect(page.locator("tr[data-row]")).to_have_count(21)
    page.get_by_role("navigation", name="Filter").get_by_role("link", name="All").click()
    seen: list[str] = []
    for expected in (50, 50, 20):
        rows = page.locator("tr[data-row]")
        expect(rows).to_have_count(expected)
        seen += rows.evaluate_all("(rows) => rows.map((row) => row.dataset.row)")
        if expected == 50:
            page.get_by_role("link", name="Next page").click()
            expect(page.locator("tbody")).not_to_contain_text(f"row {seen[0]} ")
    assert len(set(seen)) == 120
    page.get_by_role("link", name="First page").click()
    assert page.locator("tr[data-row]").first.get_attribute("data-row") == seen[0]

    page.locator("tr[data-row] a").first.click()
    expect(page.locator(".turns")).to_contain_text(f"Answer of row {seen[0]}.")
    expect(page.get_by_text("Flagged, rank 1 of 120")).to_be_visible()
    wait_for_pictures(page)
    assert page.locator("#trace img").evaluate(INK)["1d5fa8"] > 50
    page.get_by_role("link", name="Less suspicious").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"Row {seen[1]}")


def test_progress_moves_without_a_reload_until_the_verdict_is_there(
    signed_in: OpenPage, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
    page = signed_in()
    expect(page.get_by_role("row").filter(has_text="chats.jsonl")).to_contain_text("queued")
    page.get_by_role("link", name="chats.jsonl").click()
    expect(page.get_by_role("heading", name="Waiting for a free worker")).to_be_visible()
    page.evaluate("window.neverReloaded = true")

    with sessions.begin() as session:
        taken = take(session, audit)
        assert start_step(session, taken, "train:7", "a" * 64)

    def work() -> None:
        for done in range(3, 31, 3):
            with sessions.begin() as session:
                event = ProgressEvent(
                    stage=Stage.TRAINING, done=done, total=30, unit="steps", eta_seconds=60 - 2 * done
                )
                assert record_progress(session, taken, event)
                for step in range(done - 2, done + 1):
                    record_metric(session, taken, step)
            time.sleep(0.7)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    bar = page.get_by_role("progressbar")
    done = page.locator("[data-progress=done]")
    expect(done).to_be_visible()
    values = [int(done.inner_text())]
    deadline = time.monotonic() + 20
    while values[-1] < 30 and time.monotonic() < deadline:
        page.wait_for_timeout(200)
        value = int(done.inner_text())
        if value != values[-1]:
            values.append(value)
    worker.join()
    assert values[-1] == 30
    assert len(values) >= 3, values
    assert values == sorted(values)
    expect(bar).to_have_attribute("value", "30")
    expect(page.locator("#announcement")).to_have_text("Training and measuring")
    expect(page.locator("#loss img")).to_be_visible()

    scores = make_scores(120, 21)
    with sessions.begin() as session:
        add_scores(session, audit.id, taken.attempt, scores)
        assert publish(session, taken, summarise(scores))
    expect(page.get_by_text("Finetooth flags 21 of 120 samples")).to_be_visible()
    wait_for_pictures(page)
    assert page.locator("#histogram img").evaluate("(image) => image.naturalWidth") > 500
    assert page.evaluate("window.neverReloaded") is True
    assert page.locator("[data-live]").count() == 0, "what has ended is asked for no more"


def test_the_list_moves_too(signed_in: OpenPage, sessions: Sessions, workspace_id: str) -> None:
    page = signed_in()
    expect(page.get_by_role("heading", name="No audit yet")).to_be_visible()
    page.evaluate("window.neverReloaded = true")
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
    row = page.get_by_role("row").filter(has_text="chats.jsonl")
    expect(row).to_contain_text("queued")
    with sessions.begin() as session:
        event = ProgressEvent(stage=Stage.TRAINING, done=15, total=30, unit="steps")
        assert record_progress(session, take(session, audit), event)
    expect(row).to_contain_text("Training and measuring · 50 %")
    assert page.evaluate("window.neverReloaded") is True


def test_a_server_that_is_gone_is_told_and_met_again(
    signed_in: OpenPage, sessions: Sessions, workspace_id: str, complaints: list[str]
) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
    page = signed_in()
    page.goto(f"/audits/{audit.id}")
    page.context.set_offline(True)
    expect(page.locator("#connection")).to_contain_text("No answer from the server")
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_be_hidden()
    complaints[:] = [line for line in complaints if "ERR_INTERNET_DISCONNECTED" not in line]


def test_without_scripts_the_page_reloads_itself(signed_in: OpenPage, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
    page = signed_in(java_script_enabled=False)
    page.goto(f"/audits/{audit.id}")
    with sessions.begin() as session:
        take(session, audit)
    expect(page.get_by_role("heading", name="Preparing")).to_be_visible()


FOREIGN = "*:not(.hidden-character, [class^=push-], [class^=pull-])"
"""Elements within a text that are not ours: ours mark hidden characters and the shares of words."""


def test_hostile_samples_do_nothing(signed_in: OpenPage, published: str) -> None:
    page = signed_in()
    for path in ("", "/findings", *(f"/findings/{row}" for row in range(len(HOSTILE)))):
        page.goto(f"/audits/{published}{path}")
        title = page.title()
        assert title.endswith("· Finetooth")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        ours = "(script) => script.src.startsWith(`${location.origin}/static/`) && !script.text"
        assert page.evaluate(f"[...document.scripts].every({ours})")
        assert page.evaluate(f"document.querySelectorAll('.sample [onerror], .text {FOREIGN}').length") == 0
    text = page.locator(".turns .text").first
    expect(text).to_contain_text(HOSTILE[6])


PAGES = (
    "/audits",
    "/audits/{}",
    "/audits/{}/findings?group=forum",
    "/audits/{}/findings/5",
    "/audits/new?copy={}",
    "/datasets",
    "/probes",
)


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "light"), (390, "dark"), (768, "light"), (1440, "light"), (1440, "dark")]
)
def test_every_page_fits_and_can_be_read(
    signed_in: OpenPage, sessions: Sessions, workspace_id: str, width: int, scheme: str
) -> None:
    with sessions.begin() as session:
        audit = make_published(
            session,
            workspace_id,
            dataset_name="a-rather-long-dataset-name-without-spaces" * 3,
            probes=2,
            seeds=2,
        )
    page = signed_in(width=width, color_scheme=scheme)
    for path in [*PAGES, f"/datasets/{audit.dataset_id}"]:
        page.goto(path.format(audit.id))
        page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        wait_for_pictures(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        low = page.evaluate(LOW_CONTRAST)
        assert low == [], path
    page.goto(f"/audits/{audit.id}")
    wait_for_pictures(page)
    source = page.locator("#histogram img").evaluate("(image) => image.currentSrc")
    assert ("scheme=dark" in source) == (scheme == "dark")
    assert ("width=narrow" in source) == (width == 390)


LOW_CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.closest('.unseen, .skip')) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`);
  }
  return found;
}"""
"""Texts with less than the contrast of WCAG level AA."""


def test_the_keyboard_reaches_the_content(signed_in: OpenPage, published: str) -> None:
    page = signed_in()
    page.goto(f"/audits/{published}")
    page.keyboard.press("Tab")
    focused: dict[str, Any] = page.evaluate(
        "({text: document.activeElement.textContent, x: document.activeElement.getBoundingClientRect().x})"
    )
    assert focused["text"] == "Skip to the content"
    assert focused["x"] >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_report_is_read_and_printed_from_a_file_of_its_own(
    signed_in: OpenPage, open_page: OpenPage, published: str, tmp_path: Path
) -> None:
    """Served, and saved and opened without a service: no request, no complaint of the policy, nothing cut off."""
    page = signed_in()
    page.goto(f"/audits/{published}")
    address = page.get_by_role("link", name="Report to print or pass on").get_attribute("href")
    assert address is not None
    page.goto(address)
    expect(page.get_by_role("heading", name="The answer")).to_be_visible()
    saved = tmp_path / "report.html"
    saved.write_bytes(page.request.get(address).body())
    for width in (1440, 390):
        alone = open_page(width=width)
        asked: list[str] = []
        alone.on("request", lambda request, asked=asked: asked.append(request.url))
        alone.goto(saved.as_uri())
        assert asked == [saved.as_uri()]
        assert alone.title() != "owned"
        # Its stylesheet passed the policy that is in the file.
        assert alone.locator(".verdict").evaluate("node => getComputedStyle(node).borderTopStyle") == "solid"
        assert alone.evaluate("document.documentElement.scrollWidth") <= width
        expect(alone.locator(".chart svg").first).to_be_visible()
        assert alone.locator("article.finding").count() == 20
    alone.emulate_media(media="print", color_scheme="dark")
    assert alone.locator("body").evaluate("node => getComputedStyle(node).backgroundColor") == "rgb(255, 255, 255)"
    assert alone.pdf(format="A4").startswith(b"%PDF")
