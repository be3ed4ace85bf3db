"""What tests of pages in a real browser share."""

import shutil
from collections.abc import Callable

from playwright.sync_api import Browser, Page, Playwright

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

OpenPage = Callable[..., Page]
"""Opens a tab of a fresh browser."""


class Complaints(list[str]):
    """What the browser reported: console errors, uncaught errors, failed requests, violations of the policy."""

    def watch(self, page: Page) -> None:
        page.on("console", lambda message: self._console(message.type, message.text))
        page.on("pageerror", lambda error: self.append(f"uncaught: {error}"))
        page.on("requestfailed", lambda request: self._failed(request.url, request.failure or ""))
        page.on("dialog", lambda dialog: (self.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def _failed(self, url: str, reason: str) -> None:
        # Who leaves a page does not wait for its pictures.
        if "ERR_ABORTED" not in reason:
            self.append(f"failed: {url} {reason}")

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.append(f"{kind}: {text}")


def sign_in_at_issuer(page: Page, subject: str) -> None:
    """Sign in by OpenID Connect, as whom `oidc-provider-mock` knows by that name, and wait for the list of audits."""
    # The issuer's own page asks for a style sheet of the internet.
    page.route(lambda url: "127.0.0.1" not in url and "localhost" not in url, lambda route: route.fulfill(body=""))
    page.goto("/sign-in")
    page.get_by_role("link", name="Sign in with single sign-on").click()
    page.get_by_placeholder("sub").fill(subject)
    page.get_by_role("button", name="Authorize").click()
    page.wait_for_url("**/audits")


def launch_chromium(playwright: Playwright) -> Browser:
    """Start a headless Chromium: the machine's, else the one that `playwright install chromium` brought."""
    found = next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)
    return playwright.chromium.launch(executable_path=found, args=list(CHROMIUM_ARGUMENTS))
