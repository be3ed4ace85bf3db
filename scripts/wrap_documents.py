"""Wraps the paragraphs of the documentation at 120 columns: `make wrap`.

Tables, code, headings and comments stay as they are. What a page says does not change: lines break at spaces alone,
and never where the next line would begin like a list, a heading, a quotation or a table.
"""

import re
import sys
from pathlib import Path

from markdown_it import MarkdownIt

WIDTH = 120  # as for code (pyproject.toml), and as .editorconfig says
ROOT = Path(__file__).parents[1]
PARSER = MarkdownIt("commonmark").enable("table")
# What would no longer be a part of its paragraph at the beginning of a line.
BLOCK_START = re.compile(r"([-+*]|\d+[.)]|#{1,6})$|[|>=~`]{3}|[|>=<:]|-+$")
LIST_MARKER = re.compile(r"\s*(?:[-+*]|\d+[.)])\s+")


def documents() -> list[Path]:
    """The pages that are wrapped: all of docs/, and how to take part."""
    return [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]


def fill(words: list[str], first: str, rest: str) -> list[str]:
    """Puts words onto lines.

    Args:
        words: The words of one paragraph, in order.
        first: What stands before the first line, such as a list's marker.
        rest: What stands before all further lines.

    Returns:
        Lines of at most `WIDTH` columns, as far as single words allow.
    """
    inseparable = words[:1]
    for word in words[1:]:
        if BLOCK_START.match(word):
            inseparable[-1] += f" {word}"
        else:
            inseparable.append(word)
    lines = [first + inseparable[0]]
    for piece in inseparable[1:]:
        if len(lines[-1]) + 1 + len(piece) <= WIDTH:
            lines[-1] += f" {piece}"
        else:
            lines.append(rest + piece)
    return lines


def wrap(text: str) -> str:
    """The same document with its paragraphs wrapped; see the module."""
    lines = text.split("\n")
    paragraphs = [token.map for token in PARSER.parse(text) if token.type == "paragraph_open" and token.map]
    for begin, end in reversed(paragraphs):
        block = lines[begin:end]
        if any(line.endswith(("  ", "\\")) for line in block):
            continue  # a line break that the author asked for
        marker = LIST_MARKER.match(block[0])
        first = marker[0] if marker else block[0][: len(block[0]) - len(block[0].lstrip())]
        rest = " " * len(first)
        words = " ".join([block[0][len(first) :], *block[1:]]).split()
        lines[begin:end] = fill(words, first, rest)
    return "\n".join(lines)


def main() -> int:
    """Wraps every page in place and names those that changed."""
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = wrap(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            sys.stdout.write(f"wrapped {path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
