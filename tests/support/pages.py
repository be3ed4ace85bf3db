"""Pages of the dashboard as a test reads them."""

from collections.abc import Callable
from html.parser import HTMLParser

import httpx
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

Sessions = sessionmaker[Session]


SignIn = Callable[..., TestClient]


OURS = {"Sec-Fetch-Site": "same-origin"}


PICTURES = (
    "histogram.svg",
    "loss.svg?until=30&seed=7",
    "calibration.svg",
    "sensitivity.svg",
    "drift.svg",
    "group.svg?group=forum",
    "findings/3/trace.svg",
)


class Page(HTMLParser):
    """A parsed page: elements in order with their attributes and the text inside them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in ("meta", "link", "img", "source", "br", "input", "line", "circle", "path"):
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1][0] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for _, _, texts in self._open:
            texts.append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        wanted = {name.replace("_", "-").strip("-"): value for name, value in attributes.items()}
        return [
            (attrs, "".join(texts))
            for name, attrs, texts in self.elements
            if name == tag and all(attrs.get(key) == value for key, value in wanted.items())
        ]

    @property
    def text(self) -> str:
        return " ".join(self.all("html")[0][1].split())


def form_fields(page: Page) -> dict[str, str]:
    """What a browser would send of the page's form, but for its buttons."""
    found: dict[str, str] = {}
    select_name = ""
    for tag, attributes, texts in page.elements:
        name = attributes.get("name") or ""
        if tag == "input" and attributes.get("type") in ("radio", "checkbox"):
            if "checked" in attributes:
                found[name] = attributes.get("value") or "on"
        elif tag == "input" and name:
            found[name] = attributes.get("value") or ""
        elif tag == "textarea":
            found[name] = "".join(texts).removeprefix("\n")
        elif tag == "select":
            select_name = name
        elif tag == "option" and "selected" in attributes:
            found[select_name] = attributes.get("value") or "".join(texts)
    return found


def every_page(audit_id: str) -> list[str]:
    audit = f"/audits/{audit_id}"
    return ["/audits", audit, f"{audit}/findings", f"{audit}/findings?flagged=true", f"{audit}/findings/3", "/datasets",
            "/probes", "/audits/aud_missing", f"/audits/new?copy={audit_id}", f"{audit}/exports",
            "/workers", "/usage"]  # fmt: skip


def press_sign_in(client: httpx.Client, link: str) -> httpx.Response:
    """Presses the button of the page behind a one-time link, as a browser does."""
    shown = client.get(link)
    assert shown.status_code == 200, shown.text
    assert "set-cookie" not in shown.headers
    ((form, _),) = Page(shown.text).all("form")
    assert form["method"] == "post"
    return client.post(shown.url.join(form["action"] or ""), headers=OURS)
