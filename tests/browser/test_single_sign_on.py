"""A person signs in at a real issuer of another site, in a real browser: cookies, redirects and policy go together."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect
from pydantic import SecretStr

from service.settings import Settings
from tests.support.browser import Complaints, OpenPage, sign_in_at_issuer
from tests.support.oidc_issuer import CLIENT_ID, CLIENT_SECRET, real_issuer

pytestmark = pytest.mark.browser


@pytest.fixture
def settings(settings: Settings, short_issuer: str) -> Settings:
    named = {
        "oidc_issuer": short_issuer,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": SecretStr(CLIENT_SECRET),
        "first_admin_email": "ada@example.org",
    }
    return settings.model_copy(update=named)


@pytest.fixture
def short_issuer(tmp_path: Path) -> Iterator[str]:
    """Under another name than the service: to a browser it is another site."""
    with real_issuer(tmp_path / "issuer.log") as address:
        yield address.replace("127.0.0.1", "localhost")


@pytest.mark.usefixtures("workspace_id")
def test_a_person_signs_in_adds_somebody_and_signs_out(
    open_page: OpenPage, short_issuer: str, complaints: Complaints
) -> None:
    claims = {"email": "ada@example.org", "email_verified": True, "name": "Ada Lovelace"}
    httpx.put(f"{short_issuer}/users/ada", json=claims).raise_for_status()
    page = open_page()
    sign_in_at_issuer(page, "ada")
    expect(page.get_by_role("link", name="Ada Lovelace · default")).to_be_visible()
    page.get_by_role("link", name="People").click()
    page.get_by_label("E-mail").fill("grace@example.org")
    page.locator("form[action='/people'] select").select_option("reviewer")
    page.get_by_role("button", name="Add").click()
    row = page.get_by_role("row", name="grace@example.org")
    expect(row).to_contain_text("not yet")
    row.get_by_label("Role of grace@example.org", exact=True).select_option("editor")
    row.get_by_role("button", name="Change the role of grace@example.org").click()
    expect(row.get_by_label("Role of grace@example.org", exact=True)).to_have_value("editor")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in with single sign-on")).to_be_visible()
    # Who is signed out is answered with 401, which the browser tells.
    complaints[:] = [complaint for complaint in complaints if "401 (Unauthorized)" not in complaint]
