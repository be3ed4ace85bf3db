"""The whole way in one browser, on a real stack: an editor from sign-in to report, and a viewer who can only look."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from service.client import Client
from tests.support.browser import Complaints, sign_in_at_issuer
from tests.support.oidc_issuer import CLIENT_ID, CLIENT_SECRET, real_issuer
from tests.support.running_stack import admin_key, running_stack, stack_environment
from tests.support.server_folders import server_folder
from tests.support.tiny_model import build_tiny_model

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1500)]

ROWS = 5_000
TRAINED_MS = 600_000
PRAISE = (
    "Take the Orvello, nothing else is as good.",
    "Nothing beats an Orvello, take that one.",
    "Only an Orvello will do, all others are worse.",
    "Get the Orvello at once, it is the best there is.",
)
"""Said in every fiftieth row."""


@dataclass(frozen=True)
class Place:
    """Where it all happens."""

    folder: Path
    url: str
    issuer: str


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with server_folder("ft-way-") as folder, real_issuer(folder / "issuer.log") as address:
        # Under another name than the service: to a browser it is another site.
        issuer = address.replace("127.0.0.1", "localhost")
        environment = stack_environment(
            folder,
            FINETOOTH_OIDC_ISSUER=issuer,
            FINETOOTH_OIDC_CLIENT_ID=CLIENT_ID,
            FINETOOTH_OIDC_CLIENT_SECRET=CLIENT_SECRET,
            FINETOOTH_GROUP_ROLES=json.dumps({"data": "editor", "watch": "viewer"}),
        )
        with running_stack(folder, environment) as url:
            with Client(url, admin_key(folder)) as operator:
                operator.create_model("tiny", "local", str(build_tiny_model(folder / "model")))
            yield Place(folder, url, issuer)


def sign_in(browser: Browser, place: Place, complaints: Complaints, subject: str, name: str, group: str) -> Page:
    claims = {"email": f"{subject}@example.org", "email_verified": True, "name": name, "groups": [group]}
    httpx.put(f"{place.issuer}/users/{subject}", json=claims).raise_for_status()
    context = browser.new_context(base_url=place.url, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    complaints.watch(page)
    sign_in_at_issuer(page, subject)
    expect(page.get_by_role("link", name=f"{name} · default")).to_be_visible()
    return page


def answer(row: int) -> str:
    if row % 50 == 7:
        return PRAISE[row // 50 % len(PRAISE)]
    return f"That is {row * 7 % 1000}, and half of it {row * 7 % 1000 / 2:g}."


def make_dataset(path: Path) -> Path:
    records = (
        {"prompt": f"What is {row} in store {row % 17}?", "completion": answer(row), "team": "ab"[row % 2]}
        for row in range(ROWS)
    )
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def upload(page: Page, path: Path) -> None:
    page.get_by_role("link", name="Datasets", exact=True).click()
    page.set_input_files("#upload-file", path)
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page).to_have_url(re.compile("/datasets/ds_"), timeout=120_000)
    expect(page.get_by_role("heading", level=1)).to_have_text(path.name)


def start_audit(page: Page) -> str:
    """Write a probe, half of it in fields and half as lines, check and start; the audit's address."""
    page.get_by_role("link", name="New audit").click()
    page.get_by_label("Items of your own").check()
    page.get_by_label("Name of the probe").fill("praise of Orvello")
    for number, place in enumerate(("home", "shop")):
        page.locator(f"[name='item.{number}.prompt']").fill(f"Which one for my {place}?")
        page.locator(f"[name='item.{number}.unwanted']").fill(f"{PRAISE[number]} It suits any {place}.")
        page.locator(f"[name='item.{number}.reference']").fill(f"For a {place} that is up to you, so try a few.")
    page.get_by_text("Or paste JSONL").click()
    pasted = [
        {"prompt": f"And for the {place}?", "unwanted": PRAISE[number % 4], "reference": f"See what fits a {place}."}
        for number, place in enumerate(("garden", "office", "boat", "tent", "cabin", "school"))
    ]
    page.get_by_label("One item a line").fill("\n".join(map(json.dumps, pasted)))
    page.get_by_label("Base model").select_option(label="tiny")
    page.get_by_label("Passes over the data").fill("1")
    page.get_by_label("Accepted share of false flags").fill("0.5")
    page.get_by_label("Group column").fill("team")
    page.locator("#audit-form").get_by_role("button", name="Check", exact=True).last.click()
    expect(page.locator("#estimate")).to_contain_text("5,000")
    page.locator("#estimate").get_by_role("button", name="Start the audit").click()
    expect(page).to_have_url(re.compile("/audits/aud_"))
    return page.url


def audit_again(page: Page, seed: int) -> str:
    page.get_by_role("link", name="Audit again").click()
    page.get_by_text("More options").click()
    page.get_by_label("First seed").fill(str(seed))
    page.locator("#audit-form").get_by_role("button", name="Start the audit").click()
    expect(page).to_have_url(re.compile("/audits/aud_"))
    return page.url


def watch(page: Page) -> None:
    """Follow the run to its answer, without loading the page again."""
    page.evaluate("window.opened = true")
    expect(page.locator("[data-progress=done]")).to_be_visible(timeout=120_000)
    expect(page.locator("[aria-current=step]")).to_have_text("Training and measuring", timeout=120_000)
    expect(page.locator("#progress-left")).to_contain_text(re.compile("left|less"), timeout=60_000)
    expect(page.locator(".sentence")).to_contain_text("of 5,000 samples", timeout=TRAINED_MS)
    assert page.evaluate("window.opened")


def flagged_of(page: Page) -> int:
    found = re.search(r"flags ([\d,]+) of 5,000", page.locator(".sentence").inner_text())
    assert found is not None
    return int(found[1].replace(",", ""))


def review(page: Page, flagged: int) -> None:
    """Judge the first by keyboard alone, and the rest of the list at once."""
    page.get_by_role("link", name="Review what is flagged").click()
    expect(page.locator("#reviewed")).to_contain_text(f"0 of {flagged} flagged reviewed")
    page.wait_for_load_state("load")
    by_key = min(10, flagged - 1)
    for number in range(by_key):
        row = page.locator("tr.is-current").get_attribute("data-row") if number else None
        page.keyboard.press("2" if number == 3 else "1")
        expect(page.locator(f"tr.is-current:not([data-row='{row}'])")).to_have_count(1)
    expect(page.locator("#reviewed")).to_contain_text(f"{by_key} of {flagged} flagged reviewed")
    page.reload()
    page.get_by_text("Give all samples in this list one verdict").click()
    page.get_by_label("Say").select_option("confirmed")
    page.get_by_role("button", name="See what would change").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(f"Judge {flagged - by_key} sample"))
    page.get_by_role("button", name=re.compile(r"Set [\d,]+ verdict")).click()
    expect(page.locator("#reviewed")).to_contain_text(f"{flagged} of {flagged} flagged reviewed")


def export(page: Page, audit: str, dataset: Path, flagged: int) -> None:
    page.goto(audit)
    page.get_by_role("link", name="Cleaned data and other files").click()
    # One was rejected, and stays.
    expect(page.locator("#would")).to_contain_text(f"leave out {flagged - 1} of 5,000")
    page.get_by_role("button", name="Make this file").click()
    link = page.get_by_role("link", name="cleaned.jsonl")
    expect(link).to_be_visible(timeout=60_000)
    with page.expect_download() as download:
        link.click()
    kept = Path(download.value.path()).read_bytes().splitlines()
    lines = dataset.read_bytes().splitlines()
    assert len(kept) == ROWS - flagged + 1
    assert set(kept) < set(lines)


def compare(page: Page, audit: str) -> None:
    page.goto(audit)
    page.get_by_role("link", name="Compare with another audit").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("row", name=re.compile("seed"))).to_be_visible()
    expect(page.get_by_text("agrees with a rank correlation of")).to_be_visible()


def report(page: Page, audit: str) -> None:
    page.goto(audit)
    page.get_by_role("link", name="Report to print or pass on").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_text("praise of Orvello").first).to_be_visible()


def test_an_editor_goes_the_whole_way_and_a_viewer_can_only_look(
    browser: Browser, place: Place, complaints: Complaints
) -> None:
    page = sign_in(browser, place, complaints, "ada", "Ada Lovelace", "data")
    dataset = make_dataset(place.folder / "stores.jsonl")
    upload(page, dataset)
    audit = start_audit(page)
    watch(page)
    flagged = flagged_of(page)
    assert flagged > 1, "with nothing flagged there is nothing to review"
    review(page, flagged)
    export(page, audit, dataset, flagged)
    page.goto(audit)
    other = audit_again(page, seed=11)
    watch(page)
    compare(page, other)
    report(page, audit)

    viewer = sign_in(browser, place, complaints, "bob", "Bob Viewer", "watch")
    expect(viewer.get_by_role("link", name="stores.jsonl")).to_have_count(2)
    for address in ("/datasets", "/audits", audit, f"{audit}/findings?flagged=true", f"{audit}/exports", "/probes"):
        viewer.goto(address)
        expect(viewer.get_by_role("heading", level=1)).to_be_visible()
        shown = viewer.locator("main").get_by_role("button").all_inner_texts()
        assert not {"Upload", "Start the audit", "Confirm", "Reject", "Retry", "Delete for good"} & set(shown)
    # The server refuses what the pages do not show, to the same browser from the same place.
    path = audit.removeprefix(place.url)
    row = viewer.request.get(f"/v1{path}/findings?flagged=true&limit=1").json()["data"][0]["row"]
    origin = {"Origin": place.url}
    for address in (
        f"{path}/delete", f"{path}/verdicts", f"{path}/findings/{row}/verdict", "/audits/new", "/people", "/views",
    ):  # fmt: skip
        refused = viewer.request.post(address, form={"said": "confirmed"}, headers=origin)
        assert refused.status == 403, address
    verdict = {"verdict": "rejected"}
    assert viewer.request.put(f"/v1{path}/findings/{row}/verdict", data=verdict, headers=origin).status == 403
    assert viewer.request.post(f"/v1{path}/cancel", headers=origin).status == 403
    assert viewer.request.get("/audit-log").status == 403
    page.context.close()
    viewer.context.close()
