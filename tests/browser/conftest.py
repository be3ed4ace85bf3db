"""A real Chromium against a real server on loopback; every complaint of the browser fails the test."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from sqlalchemy.orm import Session, sessionmaker

from service.app import create_app
from service.keys.secrets import create_key, create_sign_in_link
from service.server.config import server_config
from service.settings import Settings
from tests.support.browser import Complaints, OpenPage, launch_chromium

PATIENCE_MS = 30_000
"""Of a page beside other tests."""
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Headless Chromium. It fails, and never skips, where there is none: `make test` decides whether these run.

    Playwright's event loop runs in the main thread as long as it does, and no other can: it ends before other tests.
    """
    with sync_playwright() as playwright:
        launched = launch_chromium(playwright)
        yield launched
        launched.close()


@pytest.fixture
def server(settings: Settings) -> Iterator[str]:
    """The address of uvicorn with the whole application."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = server_config(create_app(settings), graceful_seconds=15, log_level="warning")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not running.started:
        assert thread.is_alive(), "the server ended while it started"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """Collected over the test, which fails if there are any left at its end."""
    found = Complaints()
    yield found
    assert found == []


@pytest.fixture
def open_page(browser: Browser, server: str, complaints: Complaints) -> Iterator[OpenPage]:
    """Opens a tab of a fresh, signed-out browser; `width`, `color_scheme` and `java_script_enabled` as asked for."""
    contexts: list[BrowserContext] = []

    def go(width: int = 1440, **options: Any) -> Page:
        context = browser.new_context(base_url=server, viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        complaints.watch(page)
        return page

    yield go
    for context in contexts:
        context.close()


@pytest.fixture
def link(sessions: sessionmaker[Session], workspace_id: str) -> Callable[[], str]:
    """Makes a one-time sign-in link, as `finetooth up` prints it."""

    def make() -> str:
        with sessions.begin() as session:
            key, _ = create_key(session, workspace_id=workspace_id, name="browser", scopes=["admin"])
            return f"/sign-in?token={create_sign_in_link(session, key_id=key.id, minutes=5)}"

    return make


@pytest.fixture
def signed_in(open_page: OpenPage, link: Callable[[], str]) -> OpenPage:
    """Like open_page, signed in and on the list of audits."""

    def go(**options: Any) -> Page:
        page = open_page(**options)
        page.goto(link())
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/audits")
        return page

    return go
