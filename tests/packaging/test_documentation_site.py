"""The documentation builds into a site: strictly, whole, with every link in place, and loading nothing from others."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from tests.support.compose import ROOT
from tests.support.documentation import CONFIGURATION, build_documentation, built_site

PAGES = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
ORIGIN = "http://site.invalid/"
LOADING = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}


@dataclass
class Page(HTMLParser):
    """What of a built page is checked."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)
    depth: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        for name in ("src", "href"):
            if (tag, name) in LOADING and name in given and given.get("rel") not in ("canonical", "next", "prev"):
                self.loaded.append(given[name])
        if tag in ("p", "pre", "code"):
            self.depth.append(tag)
            if tag == "p":
                self.prose.append("")

    def handle_endtag(self, tag: str) -> None:
        if self.depth and tag == self.depth[-1]:
            self.depth.pop()

    def handle_data(self, data: str) -> None:
        if self.depth == ["p"]:
            self.prose[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_site(tmp_path_factory.mktemp("documentation"))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """Address to page, of all pages of the site."""
    found = {}
    for path in site.rglob("*.html"):
        page = Page()
        page.feed(path.read_text())
        found[urljoin(ORIGIN, str(path.relative_to(site)).removesuffix("index.html"))] = page
    return found


def address(page: str) -> str:
    """Where a page of docs/ is on the site."""
    name = page.removesuffix(".md")
    return ORIGIN if name == "index" else f"{ORIGIN}{name}/"


def in_navigation(entry: object) -> list[str]:
    match entry:
        case str():
            return [entry]
        case dict():
            return [page for below in entry.values() for page in in_navigation(below)]
        case list():
            return [page for below in entry for page in in_navigation(below)]
    raise AssertionError(entry)


def test_every_page_is_in_the_navigation_once_and_decisions_in_order() -> None:
    listed = in_navigation(CONFIGURATION["nav"])
    assert len(listed) == len(set(listed))
    assert set(listed) == PAGES, "list every page of docs/ under `nav` in mkdocs.yml"
    decisions = [page for page in listed if page.startswith("decisions/")]
    assert decisions == sorted(decisions)


def test_every_page_is_built(pages: dict[str, Page]) -> None:
    assert {address(page) for page in PAGES} <= set(pages)


def test_links_and_anchors_hold(site: Path, pages: dict[str, Page]) -> None:
    broken = []
    for here, page in pages.items():
        for link in page.links:
            target = urlsplit(urljoin(here, link))
            if f"{target.scheme}://{target.netloc}/" != ORIGIN or here.endswith("404.html"):
                continue
            there = target._replace(fragment="", query="").geturl()
            if there in pages:
                if target.fragment and target.fragment not in pages[there].ids:
                    broken.append((here, link))
            elif not (site / target.path.lstrip("/")).is_file():
                broken.append((here, link))
    assert not broken


def test_pages_load_nothing_from_other_hosts(site: Path, pages: dict[str, Page]) -> None:
    foreign = {
        (here, source)
        for here, page in pages.items()
        for source in page.loaded
        if not urljoin(here, source).startswith((ORIGIN, "data:"))
    }
    assert not foreign
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\(['\"]?)\s*['\"]?(https?:)?//", sheet.read_text()), sheet


def test_markdown_is_understood_as_it_was_meant(pages: dict[str, Page]) -> None:
    """A list, table or code that is taken for prose lacks an empty line before it, or is indented too little."""
    odd = [
        (here, text[:80])
        for here, page in pages.items()
        for text in page.prose
        if re.search(r"^\s*([-*+] |\d+\. |\||```|    \S)", text, re.MULTILINE) or re.search(r"\]\(|\*\*", text)
    ]
    assert not odd


def test_decisions_show_their_titles_in_the_navigation(site: Path) -> None:
    text = (site / "index.html").read_text()
    for path in sorted(ROOT.glob("docs/decisions/*.md")):
        title = path.read_text().splitlines()[0].removeprefix("# ").split(": ", 1)[1]
        plain = title.replace("`", "").replace("'", "&#39;")
        assert plain in text or title.replace("`", "") in text, title


@pytest.mark.parametrize("wrong", ["[gone](gone.md)", "[gone](api.md#gone)"])
def test_a_broken_link_stops_the_build(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("index.md", "api.md"):
        (tmp_path / "docs" / name).write_text(f"# A page\n\n{wrong}\n")
    assert build_documentation(tmp_path).returncode != 0
