"""What tests of pages in a real browser share."""

from collections.abc import Callable

from playwright.sync_api import Page

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
