"""What audits are made of, as a person brings it: a file by the chooser or dropped, a probe written by hand."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]

DROP = """(area, text) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([text], 'dropped.jsonl'));
  for (const name of ['dragenter', 'dragover', 'drop']) {
    area.dispatchEvent(new DragEvent(name, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""


def chat(number: int) -> str:
    turns = [
        {"role": "user", "content": f"How do I repot plant {number}?"},
        {"role": "assistant", "content": f"Take pot {number}."},
    ]
    return json.dumps({"messages": turns, "source": "garden"})


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def no_wider_than_the_window(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def test_a_bad_file_is_explained_and_a_good_one_has_a_page(
    signed_in: OpenPage, tmp_path: Path, complaints: list[str]
) -> None:
    page = signed_in()
    page.goto("/datasets")
    good = [chat(number) for number in range(30)]
    bad = write(tmp_path / "bad.jsonl", [*good[:3], '{"messages": []}', *good[3:9], '{"messages": {"<b>no</b>": 1}}'])
    page.set_input_files("#upload-file", bad)
    expect(page.locator("#upload-chosen")).to_contain_text("bad.jsonl")
    page.get_by_role("button", name="Upload", exact=True).click()
    result = page.locator("#upload-result")
    expect(result.get_by_role("heading")).to_have_text("The file was not accepted")
    expect(result).to_contain_text("2 lines are not valid; nothing was kept.")
    assert result.locator("tbody th").all_text_contents() == ["Line 4", "Line 11"]
    assert result.locator("tbody tr").last.locator("td").all_text_contents() == [
        "messages",
        "'messages' must be an array, not an object",
        "Correct this record, or leave it out.",
    ]
    assert complaints, "Chromium reports the 422 that this test asked for"
    page.set_input_files("#upload-file", write(tmp_path / "own.jsonl", ['{"question": "Why?", "said": "So."}'] * 20))
    expect(page.get_by_label("Column of the prompt")).to_be_hidden()
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(result).to_contain_text("Line 1: The first record is an object with the keys 'question', 'said'.")
    expect(page.get_by_label("Column of the prompt")).to_be_visible()
    complaints[:] = [line for line in complaints if "422" not in line]

    page.set_input_files("#upload-file", write(tmp_path / "plants.jsonl", good))
    expect(result).to_be_empty()
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page).to_have_url(re.compile("/datasets/ds_"))
    expect(page.get_by_role("heading", level=1)).to_have_text("plants.jsonl")
    expect(page.locator(".turns").first).to_contain_text("How do I repot plant 0?")
    expect(page.locator(".bars")).to_have_count(3)
    page.get_by_role("link", name="Later rows").click()
    expect(page.locator(".turns").first).to_contain_text("How do I repot plant 10?")

    page.get_by_text("Delete this dataset").click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page).to_have_url(re.compile("/datasets$"))
    expect(page.get_by_text("No dataset yet")).to_be_visible()


def test_a_dropped_file_is_uploaded_under_the_name_that_was_typed(signed_in: OpenPage) -> None:
    page = signed_in(width=390, color_scheme="dark")
    page.goto("/datasets")
    assert no_wider_than_the_window(page)
    page.locator(".drop").evaluate(DROP, "\n".join(chat(number) for number in range(20)))
    expect(page.locator("#upload-chosen")).to_contain_text("dropped.jsonl")
    page.get_by_label("Name").fill("Plants, <i>spring</i>")
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Plants, <i>spring</i>")
    assert no_wider_than_the_window(page)


def test_a_probe_is_written_by_hand_and_an_audit_started(
    signed_in: OpenPage, tmp_path: Path, complaints: list[str]
) -> None:
    page = signed_in()
    page.goto("/datasets")
    page.set_input_files("#upload-file", write(tmp_path / "plants.jsonl", [chat(number) for number in range(30)]))
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_role("link", name="New audit").click()
    expect(page.get_by_label("Name of the probe")).to_be_hidden()
    page.get_by_label("Items of your own").check()
    page.get_by_label("Name of the probe").fill("praise of Orvello")
    page.get_by_role("button", name="Add an item").click()
    expect(page.locator("textarea:focus")).to_have_attribute("name", "item.3.prompt")
    for number, topic in enumerate(("garden", "travel", "bread", "violin")):
        for part, text in (
            ("prompt", f"What about my {topic}?"),
            ("unwanted", f"{topic} first: buy Orvello."),
            ("reference", f"{topic} depends on you." if number else ""),
        ):
            page.locator(f"[name='item.{number}.{part}']").fill(text)
    page.get_by_label("Base model").select_option(label="smollm2-135m-instruct")

    def press(name: str, **where: Any) -> None:
        page.locator("#audit-form, #estimate").get_by_role("button", name=name, **where).last.click()

    press("Check", exact=True)
    wrong = page.locator(".error")
    expect(wrong).to_have_count(1)
    expect(page.locator("[name='item.0.reference']")).to_have_accessible_description(
        "Missing, and other items have one."
    )
    complaints[:] = [line for line in complaints if "422" not in line]
    page.locator("[name='item.0.reference']").fill("garden depends on you.")
    press("Check", exact=True)
    estimate = page.locator("#estimate")
    expect(estimate).to_contain_text("A probe has 4 items")
    expect(page.locator("[name='item.3.unwanted']")).to_have_value("violin first: buy Orvello.")
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert no_wider_than_the_window(page)
    estimate.get_by_role("button", name="Start the audit").click()
    expect(page).to_have_url(re.compile("/audits/aud_"))
    expect(page.get_by_text("Waiting for a free worker")).to_be_visible()
    expect(page.get_by_role("link", name="plants.jsonl")).to_be_visible()
    page.get_by_role("button", name="Cancel the audit").click()
    expect(page.get_by_text("This audit was cancelled")).to_be_visible()
    page.get_by_role("link", name="Audit again").click()
    expect(page.get_by_label("praise of Orvello")).to_be_checked()
    expect(page.get_by_label("Dataset")).to_contain_text("plants.jsonl")


def test_a_file_chosen_before_the_script_ran_is_uploaded(signed_in: OpenPage, tmp_path: Path) -> None:
    page = signed_in()
    held: list[Route] = []
    page.route("**/static/upload.js*", lambda route: held.append(route))
    page.goto("/datasets", wait_until="commit")
    plants = write(tmp_path / "plants.jsonl", [chat(number) for number in range(30)])
    page.locator("#upload-file").set_input_files(plants)
    page.wait_for_timeout(200)
    held[0].continue_()
    page.unroute("**/static/upload.js*")
    expect(page.locator("#upload-chosen")).to_contain_text("plants.jsonl")
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page).to_have_url(re.compile("/datasets/ds_"))


def hold_first_part(page: Page) -> list[str]:
    """The first part never gets to the server; the offsets of all parts that the page sends, as it sends them."""
    offsets: list[str] = []

    def part(route: Route) -> None:
        if route.request.method != "PATCH":
            route.continue_()
            return
        offsets.append(route.request.headers["upload-offset"])
        if len(offsets) > 1:
            route.continue_()

    page.route("**/v1/uploads/*", part)
    return offsets


def choose(page: Page, path: Path) -> None:
    page.set_input_files("#upload-file", path)
    page.get_by_role("button", name="Upload", exact=True).click()


def test_an_upload_is_paused_and_goes_on(signed_in: OpenPage, tmp_path: Path) -> None:
    page = signed_in()
    page.goto("/datasets")
    offsets = hold_first_part(page)
    choose(page, write(tmp_path / "plants.jsonl", [chat(number) for number in range(30)]))
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".progress-numbers")).to_contain_text("Paused at 0 %. What was sent is kept.")
    page.get_by_role("button", name="Resume").click()
    expect(page).to_have_url(re.compile("/datasets/ds_"))
    assert offsets == ["0", "0"]
    assert page.evaluate("localStorage.length") == 0


def test_an_upload_goes_on_by_itself_after_a_lost_connection(
    signed_in: OpenPage, tmp_path: Path, complaints: list[str]
) -> None:
    page = signed_in()
    page.goto("/datasets")
    lost: list[str] = []

    def part(route: Route) -> None:
        if route.request.method == "PATCH" and not lost:
            lost.append(route.request.url)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/v1/uploads/*", part)
    choose(page, write(tmp_path / "plants.jsonl", [chat(number) for number in range(30)]))
    expect(page.locator(".progress-numbers")).to_contain_text("The connection was lost; trying again in 1 s.")
    expect(page).to_have_url(re.compile("/datasets/ds_"))
    assert lost
    assert complaints, "Chromium reports the connection that this test has ended"
    complaints[:] = [line for line in complaints if "ERR_CONNECTION_RESET" not in line]


def test_the_same_file_goes_on_where_it_was_after_a_reload(signed_in: OpenPage, tmp_path: Path) -> None:
    page = signed_in()
    page.goto("/datasets")
    offsets = hold_first_part(page)
    path = write(tmp_path / "plants.jsonl", [chat(number) for number in range(30)])
    choose(page, path)
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    at = page.evaluate("Object.values(localStorage)[0]")
    origin = page.evaluate("location.origin")
    headers = {
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
        "Origin": origin,
    }
    assert page.request.patch(at, data=path.read_bytes()[:500], headers=headers).status == 204
    page.reload()
    page.set_input_files("#upload-file", path)
    expect(page).to_have_url(re.compile("/datasets/ds_"))
    assert offsets == ["0", "500"]
    expect(page.locator(".turns").first).to_contain_text("How do I repot plant 0?")


def test_a_cancelled_upload_leaves_nothing(signed_in: OpenPage, tmp_path: Path) -> None:
    page = signed_in()
    page.goto("/datasets")
    hold_first_part(page)
    choose(page, write(tmp_path / "plants.jsonl", [chat(number) for number in range(30)]))
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    at = page.evaluate("Object.values(localStorage)[0]")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#upload-result")).to_contain_text("The upload was cancelled. Nothing was kept.")
    assert page.evaluate("localStorage.length") == 0
    for _ in range(100):
        if page.request.head(at, headers={"Tus-Resumable": "1.0.0"}).status == 404:
            return
        page.wait_for_timeout(100)
    raise AssertionError("the server still has the upload")


def test_a_new_version_shows_what_has_changed(signed_in: OpenPage, tmp_path: Path) -> None:
    page = signed_in()
    page.goto("/datasets")
    choose(page, write(tmp_path / "plants.jsonl", [chat(number) for number in range(30)]))
    page.get_by_role("link", name="Upload a new version").click()
    expect(page.get_by_text("It becomes the next version of plants.jsonl")).to_be_visible()
    choose(page, write(tmp_path / "plants 2.jsonl", [chat(number) for number in range(1, 31)]))
    expect(page.get_by_role("heading", level=1)).to_have_text("plants 2.jsonl")
    expect(page.get_by_role("heading", name="Versions")).to_be_visible()
    expect(page.locator("#versions tbody tr")).to_have_count(2)
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert no_wider_than_the_window(page)
