"""The review as a person does it: by keyboard alone, with the mouse, and without JavaScript."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from service.store.verdict_tables import Verdict
from tests.support.made_audits import make_published
from tests.support.waiting import wait_for

pytestmark = pytest.mark.browser

Sessions = sessionmaker[Session]
OpenPage = Callable[..., Page]


@pytest.fixture
def published(sessions: Sessions, workspace_id: str) -> str:
    with sessions.begin() as session:
        return make_published(session, workspace_id).id


def kept(sessions: Sessions, audit: str) -> dict[int, tuple[str | None, str | None]]:
    """What the database has of every sample of which anything was ever said."""
    with sessions() as session:
        found = session.scalars(select(Verdict).where(Verdict.audit_id == audit))
        return {verdict.row: (verdict.verdict, verdict.note) for verdict in found}


def test_sixty_findings_are_judged_with_fewer_keys_and_no_mouse(
    signed_in: OpenPage, published: str, sessions: Sessions
) -> None:
    page = signed_in()
    page.goto(f"/audits/{published}/findings")
    first = page.locator("tr[data-row]").first
    pressed = judged = 0
    while judged < 60:
        at = page.locator("tr.is-current")
        if pressed == 0:
            row, cluster = first.get_attribute("data-row"), first.get_attribute("data-cluster")
        else:
            row, cluster = at.get_attribute("data-row"), at.get_attribute("data-cluster")
        alike = page.locator(f"tr[data-cluster='{cluster}']").count()
        page.keyboard.press("Shift+Digit1" if alike > 1 else ("2" if judged % 5 == 4 else "1"))
        pressed, judged = pressed + 1, judged + alike
        if judged < 60:  # the next page comes by itself
            expect(page.locator(f"tr.is-current:not([data-row='{row}'])")).to_have_count(1)
    assert pressed < 60
    page.keyboard.press("3")
    expect(page.locator("#announcement")).to_contain_text("unsure")
    page.reload()
    wait_for(lambda: len(kept(sessions, published)) >= 61, what=lambda: kept(sessions, published))
    said = kept(sessions, published)
    assert {verdict for verdict, _ in said.values()} == {"confirmed", "rejected", "unsure"}
    page.goto(f"/audits/{published}/findings?flagged=true")
    expect(page.get_by_text("21 of 21 flagged reviewed")).to_be_visible()


def test_a_verdict_shows_at_once_counts_and_is_undone(signed_in: OpenPage, published: str, sessions: Sessions) -> None:
    page = signed_in()
    page.goto(f"/audits/{published}/findings?flagged=true")
    first = page.locator("tr[data-row]").first
    row = int(str(first.get_attribute("data-row")))
    page.keyboard.press("j")
    expect(first).to_have_class("is-flagged is-current")
    page.keyboard.press("1")
    expect(first.get_by_role("button", name="Confirm")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#reviewed")).to_contain_text("1 of 21 flagged reviewed")
    expect(page.locator("tr.is-current")).not_to_have_attribute("data-row", str(row))
    page.keyboard.press("k")
    page.keyboard.press("n")
    page.get_by_label("For the next reader").fill("Names the brand <b>twice</b>.")
    page.get_by_role("button", name="Save").click()
    expect(first.locator("small.note")).to_have_text("Names the brand <b>twice</b>.")
    page.keyboard.press("u")
    expect(first.locator("small.note")).to_have_text("")
    page.keyboard.press("u")
    expect(page.locator("#reviewed")).to_contain_text("0 of 21 flagged reviewed")
    wait_for(lambda: kept(sessions, published)[row] == (None, None), what="the server never heard of it")
    page.reload()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


def test_who_judges_fast_and_leaves_loses_nothing(signed_in: OpenPage, published: str, sessions: Sessions) -> None:
    page = signed_in()
    page.goto(f"/audits/{published}/findings?flagged=true")
    with sessions() as session:
        # The first verdict is not answered while this is held, and the others wait for its answer.
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("verdicts " + published, 0))))
        for key in "12312":
            page.keyboard.press(key)
        page.keyboard.press("k")
        page.keyboard.press("3")
        page.goto("/audits")
        assert kept(sessions, published) == {}
    wait_for(lambda: len(kept(sessions, published)) == 5, what=lambda: kept(sessions, published))
    said = [verdict for verdict, _ in kept(sessions, published).values()]
    assert sorted(map(str, said)) == ["confirmed", "confirmed", "rejected", "unsure", "unsure"]


def test_an_early_answer_takes_back_nothing_that_was_pressed_since(
    signed_in: OpenPage, published: str, sessions: Sessions
) -> None:
    page = signed_in()
    page.goto(f"/audits/{published}/findings?flagged=true")
    with sessions() as session:
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("verdicts " + published, 0))))
        page.keyboard.press("1")
        expect(page.locator("#reviewed")).to_contain_text("1 of 21 flagged reviewed")
        page.keyboard.press("u")
        expect(page.locator("#reviewed")).to_contain_text("0 of 21 flagged reviewed")
    wait_for(lambda: set(kept(sessions, published).values()) == {(None, None)}, what="the server never heard of it")
    page.wait_for_timeout(200)
    expect(page.locator("#reviewed")).to_contain_text("0 of 21 flagged reviewed")


def test_the_mouse_judges_too_and_pressing_again_withdraws(
    signed_in: OpenPage, published: str, sessions: Sessions
) -> None:
    page = signed_in()
    page.goto(f"/audits/{published}/findings")
    first = page.locator("tr[data-row]").first
    button = first.get_by_role("button", name="Reject")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert page.url.endswith("/findings"), "without loading a page"
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    page.reload()
    assert set(kept(sessions, published).values()) == {(None, None)}


def test_one_sample_after_the_other_from_its_own_page(signed_in: OpenPage, published: str, sessions: Sessions) -> None:
    page = signed_in()
    page.goto(f"/audits/{published}/findings?flagged=true&verdict=none")
    page.locator("tr[data-row] a").first.click()
    heading = page.get_by_role("heading", level=1)
    page.get_by_role("textbox", name="Note").fill("Says that it is harmless.")
    page.keyboard.press("Escape")
    for _ in range(3):
        before = heading.inner_text()
        page.keyboard.press("1")
        expect(heading).not_to_have_text(before)
    said = list(kept(sessions, published).values())
    assert sorted(said, key=str) == [("confirmed", "Says that it is harmless."), *[("confirmed", None)] * 2]


def test_what_the_server_refuses_is_taken_back_and_said(
    signed_in: OpenPage, published: str, sessions: Sessions, complaints: list[str]
) -> None:
    page = signed_in()
    page.goto(f"/audits/{published}/findings?flagged=true")
    page.context.clear_cookies()
    button = page.locator("tr[data-row]").first.get_by_role("button", name="Confirm")
    button.click()
    expect(page.get_by_text("You are signed out.")).to_be_visible()
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#reviewed")).to_contain_text("0 of 21 flagged reviewed")
    assert kept(sessions, published) == {}
    assert complaints
    complaints[:] = [line for line in complaints if "401" not in line]


def test_without_javascript_the_same_forms_load_pages(signed_in: OpenPage, published: str, sessions: Sessions) -> None:
    page = signed_in(java_script_enabled=False)
    page.goto(f"/audits/{published}/findings?flagged=true&sort=row")
    first = page.locator("tr[data-row]").first
    row = int(str(first.get_attribute("data-row")))
    first.get_by_role("button", name="Unsure").click()
    expect(page.get_by_text("1 of 21 flagged reviewed")).to_be_visible()
    assert page.url.endswith("flagged=true&sort=row")
    page.get_by_text("Give all samples in this list one verdict").click()
    page.get_by_label("Say").select_option("rejected")
    page.get_by_role("button", name="See what would change").click()
    expect(page.get_by_text("21 would become rejected")).to_be_visible()
    page.get_by_role("button", name="Set 21 verdicts").click()
    expect(page.get_by_text("21 of 21 flagged reviewed")).to_be_visible()
    assert {verdict for verdict, _ in kept(sessions, published).values()} == {"rejected"}
    assert kept(sessions, published)[row] == ("rejected", None)
