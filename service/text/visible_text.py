"""Samples as plain text in which nothing can hide: invisible characters are shown by their names."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_SHOWN = 50_000
"""Most characters of one turn on a page; the API returns the rest."""

EXCERPT = 140
"""Most characters of an excerpt, which is one line of a list."""

_INVISIBLE_LETTERS = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")
"""Letters and marks by category that are drawn as nothing: Hangul fillers, the empty Braille cell and similar ones."""

_OF_EMOJI = frozenset("\ufe0f\u200d")
"""A variation selector and a joiner, which are not hidden characters if they are part of an emoji."""

_SHORT_NAMES = {
    "\r": "CARRIAGE RETURN",
    "\0": "NULL",
    "\x1b": "ESCAPE",
    "\x7f": "DELETE",
    "\b": "BACKSPACE",
}
"""Names of control characters, for which Unicode has none."""


@dataclass(frozen=True)
class Piece:
    """A stretch of visible text, or a hidden character (`code` such as U+200B) that is repeated `count` times."""

    text: str = ""
    code: str = ""
    name: str = ""
    count: int = 0


def is_hidden(character: str) -> bool:
    """Return whether the character shows nothing or changes how its neighbours are shown.

    Hidden are controls except newline and tab, zero-width and bidirectional formats, tags, unusual line ends and
    spaces, variation selectors, private and unassigned code points, and lone surrogates.
    """
    if character in "\n\t ":
        return False
    if character in _INVISIBLE_LETTERS:
        return True
    category = unicodedata.category(character)
    if category in ("Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp", "Zs"):
        return True
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def pieces(text: str, limit: int = MAX_SHOWN) -> Iterator[Piece]:
    """Yield the first characters of a text as visible text and named hidden characters, in order.

    CR LF is an ordinary line end. A variation selector or joiner inside an emoji stays with it.

    Args:
        text: The text.
        limit: Most characters to show.
    """
    text = text[:limit].replace("\r\n", "\n")
    start = position = 0
    while position < len(text):
        character = text[position]
        if not is_hidden(character) or _belongs_to_emoji(text, position):
            position += 1
            continue
        if start < position:
            yield Piece(text=text[start:position])
        end = position
        while end < len(text) and text[end] == character:
            end += 1
        name = unicodedata.name(character, _SHORT_NAMES.get(character, "unnamed"))
        yield Piece(code=f"U+{ord(character):04X}", name=name, count=end - position)
        start = position = end
    if start < len(text):
        yield Piece(text=text[start:])


def count_hidden(text: str) -> int:
    """Return the number of hidden characters in the whole text, as `pieces` would name them.

    It examines each distinct character once, and not each occurrence: a text may be a megabyte.
    """
    text = text.replace("\r\n", "\n")
    count = 0
    for character, times in Counter(text).items():
        if character in _OF_EMOJI:
            for run in re.finditer(f"{character}+", text):
                start = run.start()
                while start < run.end() and _belongs_to_emoji(text, start):
                    start += 1
                count += run.end() - start
        elif is_hidden(character):
            count += times
    return count


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """Return the beginning of a text in one line, with hidden characters named in brackets.

    Args:
        text: The text.
        limit: Most characters of the line.
    """
    shown = "".join(piece.text or f"[{piece.code}]" for piece in pieces(text, limit * 2))
    line = " ".join(shown.split())
    return line if len(line) <= limit and len(text) <= limit * 2 else line[: limit - 1].rstrip() + "…"


def first_line(messages: Sequence[Mapping[str, Any]] | None) -> str | None:
    """Return an excerpt by which a sample is recognised: the beginning of the user's first turn; None without text."""
    if not messages:
        return None
    user = next((message for message in messages if message["role"] == "user"), messages[0])
    return excerpt(user["content"]) or None


def last_answer(messages: Sequence[Mapping[str, Any]] | None) -> str | None:
    """Return an excerpt of the assistant's last turn; None without one."""
    answers = [message["content"] for message in messages or () if message["role"] == "assistant"]
    return (excerpt(answers[-1]) or None) if answers else None


def shown_value(value: Any) -> str:
    """Return a value of an extra column as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _belongs_to_emoji(text: str, position: int) -> bool:
    """Whether the variation selector or joiner at this position is part of an emoji."""
    before = text[position - 1] if position else ""
    after = text[position + 1] if position + 1 < len(text) else ""
    if text[position] == "\ufe0f":
        return _is_symbol(before) or (before in "0123456789#*" and after == "\u20e3" and before != "")
    if text[position] == "\u200d":
        return (_is_symbol(before) or before == "\ufe0f") and _is_symbol(after)
    return False


def _is_symbol(character: str) -> bool:
    return character != "" and ord(character) > 0x7F and unicodedata.category(character) in ("So", "Sk", "Sm")
