"""The documentation's pages in a real browser: they work, and ask nobody but their own server for anything."""

import functools
import http.server
import re
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import Complaints
from tests.support.documentation import built_site

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site, served from a folder as any web server would."""
    folder = built_site(tmp_path_factory.mktemp("documentation"))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_pages_ask_only_their_own_server(site: str, browser: Browser, complaints: Complaints) -> None:
    context = browser.new_context(base_url=site)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    complaints.watch(page)
    for path in ("/", "/quickstart/", "/statistics/", "/api/", "/decisions/0033-three-kinds-of-samples/"):
        page.goto(path, wait_until="networkidle")
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
    page.get_by_role("button", name="Search").first.click()
    page.keyboard.type("fencing")
    expect(page.get_by_text(re.compile(r"^\d+ results?$"))).to_be_visible()
    assert asked
    assert [url for url in asked if not url.startswith((f"{site}/", "data:", "blob:"))] == []
    context.close()
