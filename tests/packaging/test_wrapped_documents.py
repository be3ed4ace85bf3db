"""The documentation has one width, and wrapping it changes no page."""

import re
import runpy
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.support.compose import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "wrap_documents.py"))
DOCUMENTS = SCRIPT["documents"]()


def rendered(text: str) -> str:
    """The page as HTML, with any white space as one space, as a browser shows it."""
    return re.sub(r"\s+", " ", MarkdownIt("commonmark").enable("table").render(text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_at_most_120_wide_but_for_tables(document: Path) -> None:
    wide = [
        number
        for number, line in enumerate(document.read_text().splitlines(), start=1)
        if len(line) > 120 and not line.startswith("|")
    ]
    assert not wide, "run `make wrap`; break long lines of code by hand"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_wrapping_again_changes_nothing_that_is_shown(document: Path) -> None:
    text = document.read_text()
    wrapped = SCRIPT["wrap"](text)
    assert rendered(wrapped) == rendered(text)
    assert SCRIPT["wrap"](wrapped) == wrapped


def test_a_line_never_begins_like_another_kind_of_block() -> None:
    start = "word " * 23
    for word in ("-", "+", "404.", "1)", "#", "|", "> 5", "===", "<!--x"):
        text = f"{start}{word} and more words behind it.\n"
        wrapped = SCRIPT["wrap"](text)
        assert len(wrapped.splitlines()) == 2
        assert rendered(wrapped) == rendered(text)
        assert rendered(wrapped).count("<p>") == 1


def test_lists_keep_their_indentation_and_code_its_lines() -> None:
    long = "many words " * 20
    text = f"- first {long}\n  - second {long}\n\nText.\n\n    code {long}\n\n| a | b |\n|---|---|\n| {long} | c |\n"
    wrapped = SCRIPT["wrap"](text)
    assert rendered(wrapped) == rendered(text)
    assert f"\n    code {long}\n" in wrapped
    assert f"\n| {long} | c |\n" in wrapped
    assert "\n    many words" in wrapped or "\n    words many" in wrapped
