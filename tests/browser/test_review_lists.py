"""Reviewers who disagree, verdicts on many that are undone, columns and saved views, in a real browser."""

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.keys.secrets import create_key
from service.store.verdict_tables import Verdict
from tests.support.made_audits import make_published

pytestmark = pytest.mark.browser

Sessions = sessionmaker[Session]
OpenPage = Callable[..., Page]


@pytest.fixture
def published(sessions: Sessions, workspace_id: str) -> str:
    with sessions.begin() as session:
        return make_published(session, workspace_id).id


@pytest.fixture
def colleague(sessions: Sessions, workspace_id: str, server: str) -> httpx.Client:
    """Another reviewer, named Ada, at the API."""
    with sessions.begin() as session:
        _, secret = create_key(session, workspace_id=workspace_id, name="Ada", scopes=["verdicts:write"])
    return httpx.Client(base_url=server, headers={"Authorization": f"Bearer {secret}"})


def kept(sessions: Sessions, audit: str) -> dict[int, str | None]:
    with sessions() as session:
        found = session.scalars(select(Verdict).where(Verdict.audit_id == audit))
        return {verdict.row: verdict.verdict for verdict in found}


def test_disagreement_shows_as_one_judges(
    signed_in: OpenPage, published: str, sessions: Sessions, colleague: httpx.Client
) -> None:
    page = signed_in()
    page.goto(f"/audits/{published}/findings?flagged=true")
    first, second = page.locator("tr[data-row]").nth(0), page.locator("tr[data-row]").nth(1)
    rows = [int(str(one.get_attribute("data-row"))) for one in (first, second)]
    for row, verdict in zip(rows, ("rejected", "confirmed"), strict=True):
        url = f"/v1/audits/{published}/findings/{row}/verdict"
        assert colleague.put(url, json={"verdict": verdict}).status_code == 200
    page.reload()
    progress = page.locator("#reviewed")
    expect(progress).to_contain_text("2 of 21 flagged reviewed")
    expect(first.locator(".outcome")).to_have_text("rejected by others")
    expect(progress.locator("[data-disputes]")).to_be_hidden()
    page.keyboard.press("1")
    expect(first.locator(".outcome")).to_have_text("disputed: others say rejected")
    expect(progress).to_contain_text("2 of 21 flagged reviewed, 1 disputed")
    page.keyboard.press("1")
    expect(second.locator(".outcome")).to_have_text("others agree")
    page.keyboard.press("u")
    expect(second.locator(".outcome")).to_have_text("confirmed by others")
    page.keyboard.press("u")
    expect(first.locator(".outcome")).to_have_text("rejected by others")
    expect(progress.locator("[data-disputes]")).to_be_hidden()
    first.get_by_role("button", name="Confirm").click()
    expect(progress).to_contain_text("1 disputed")
    page.get_by_role("link", name="Disputed", exact=True).click()
    expect(page.locator("tr[data-row]")).to_have_count(1)
    assert kept(sessions, published) == {rows[0]: "disputed", rows[1]: "confirmed"}

    third = signed_in()  # another key of its own
    third.goto(f"/audits/{published}/findings?verdict=disputed")
    third.keyboard.press("2")
    expect(third.locator("tr[data-row] .outcome").first).to_have_text("settled: rejected")
    expect(third.locator("#reviewed [data-disputes]")).to_be_hidden()
    assert kept(sessions, published)[rows[0]] == "rejected"


@pytest.mark.parametrize("scripts", [True, False])
def test_columns_views_and_a_bulk_with_its_undoing(
    signed_in: OpenPage, published: str, sessions: Sessions, scripts: bool
) -> None:
    page = signed_in(java_script_enabled=scripts)
    page.goto(f"/audits/{published}/findings?flagged=true")
    page.get_by_text("Columns", exact=True).first.click()
    page.get_by_role("checkbox", name="p", exact=True).uncheck()
    page.get_by_role("checkbox", name="side").check()
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_role("columnheader", name="Side")).to_be_visible()
    expect(page.get_by_role("columnheader", name="p", exact=True)).to_have_count(0)
    shown = page.url
    page.get_by_text("Saved views", exact=True).click()
    page.get_by_label("Save this list as").fill("Flagged, by side")
    page.get_by_role("button", name="Save view").click()
    view = page.get_by_role("link", name="Flagged, by side")
    expect(view).to_have_attribute("aria-current", "page")
    page.goto(f"/audits/{published}/findings")
    view.click()
    expect(page.get_by_role("columnheader", name="Side")).to_be_visible()
    assert "columns=rank,mu,z,q,flag,side,verdict" in page.url
    assert "flagged=true" in shown

    page.get_by_text("Give all samples in this list one verdict").click()
    page.get_by_label("Say").select_option("rejected")
    page.get_by_role("button", name="See what would change").click()
    page.get_by_role("button", name="Set 21 verdicts").click()
    expect(page.get_by_text("21 verdicts changed")).to_be_visible()
    assert set(kept(sessions, published).values()) == {"rejected"}
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("21 samples as before again.")).to_be_visible()
    assert set(kept(sessions, published).values()) == {None}
    expect(page.get_by_role("columnheader", name="Side")).to_be_visible()
    page.get_by_role("link", name="All bulk verdicts").click()
    expect(page.get_by_role("cell", name="21 samples as before")).to_be_visible()
