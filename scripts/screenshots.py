"""Pictures of the dashboard for the documents: each page of a workspace that has an audit, in both colour schemes.

    finetooth up                                  # in another terminal, with the demo's audit in its data folder
    FINETOOTH_URL=... FINETOOTH_API_KEY=... python -m scripts.screenshots docs/images/pages
    pngquant --force --ext .png --quality 70-95 docs/images/pages/*.png

Needs Chromium, as the browser tests do. The key is typed into the sign-in page, and stands in no picture.
"""

import os
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from service.client import Client
from tests.support.browser import launch_chromium

SIZE = {"width": 1280, "height": 900}
SCHEMES = ("light", "dark")


def addresses(client: Client) -> dict[str, str]:
    """The pages by the names of their pictures, of the newest audit that has succeeded."""
    audits = client._send("GET", "/v1/audits?status=succeeded&limit=1")["data"]
    if not audits:
        raise SystemExit("The workspace has no finished audit. Run `finetooth demo` or `finetooth audit` first.")
    audit = f"/audits/{audits[0]['id']}"
    (top,) = client._send("GET", f"/v1{audit}/findings?limit=1")["data"]
    return {
        "audits": "/audits",
        "audit": audit,
        "findings": f"{audit}/findings",
        "finding": f"{audit}/findings/{top['row']}",
        "files": f"{audit}/exports",
        "dataset": f"/datasets/{audits[0]['dataset_id']}",
        "new-audit": "/audits/new",
        "workers": "/workers",
        "models": "/models",
        "keys": "/keys",
        "people": "/people",
        "audit-log": "/audit-log",
    }


def take(browser: Browser, url: str, key: str, pages: dict[str, str], folder: Path) -> None:
    """Write one picture a page and scheme."""
    for scheme in SCHEMES:
        context = browser.new_context(base_url=url, viewport=SIZE, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto("/sign-in")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/audits")
        for name, address in pages.items():
            page.goto(address)
            page.wait_for_load_state("load")
            page.screenshot(path=folder / f"{name}-{scheme}.png")
        context.close()


def main() -> None:
    """Command line."""
    folder = Path(sys.argv[1])
    url, key = os.environ["FINETOOTH_URL"], os.environ["FINETOOTH_API_KEY"]
    with Client(url, key) as client:
        pages = addresses(client)
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        take(browser, url, key, pages, folder)
        browser.close()


if __name__ == "__main__":
    main()
