"""What is odd about rows that were taken: counted, and the first ones named. They are kept as they are."""

import re
from itertools import accumulate, chain
from typing import Any

from service.datasets.batch import Batch
from service.datasets.strict_json import shown_key

LISTED_ROWS = 20
LISTED_CHARACTERS = 20

BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
ZERO_WIDTH = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u2060-\u2064\u206a-\u206f\u3164\ufe00-\ufe0d\uffa0"
)
JOINERS = "\u200c\u200d\ufe0e\ufe0f"
TAGS = "\U000e0000-\U000e01ef"
CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"

KINDS: dict[str, tuple[str, str]] = {
    "bidi_characters": (BIDI, "Turns of the writing direction: a text may read otherwise than it is."),
    "invisible_characters": (
        ZERO_WIDTH + TAGS,
        "Zero-width, filler, variation and tag characters: words that no reader sees, or split words.",
    ),
    "joining_characters": (
        JOINERS,
        "Joiners and emoji selectors: usual in emoji and some scripts, invisible elsewhere.",
    ),
    "byte_order_marks": ("\ufeff", "U+FEFF inside a text, as where files were joined."),
    "control_characters": (CONTROL, "Control characters other than tab and line ends."),
    "line_separators": ("\u2028\u2029", "U+2028 and U+2029, which some programs read as line ends."),
}
"""Characters that are noticed, by the name of the notice."""

EMPTY_ANSWER = "empty_answers"
IGNORED_KEYS = "ignored_turn_keys"
SKIPPED_MARK = "byte_order_mark_at_start"

MEANINGS = {name: meaning for name, (_, meaning) in KINDS.items()} | {
    EMPTY_ANSWER: "The last turn is empty or blank: there is nothing to learn from it.",
    IGNORED_KEYS: "Turns have keys that no audit uses; they are not in the stored rows.",
    SKIPPED_MARK: "The file begins with a byte order mark, which was skipped.",
}

_ANY = "[" + "".join(characters for characters, _ in KINDS.values()) + "]"
_ANY_PATTERN = re.compile(_ANY)
_PATTERNS = {name: re.compile(f"[{characters}]") for name, (characters, _) in KINDS.items()}
_ASCII_CONTROL = bytes(byte for byte in range(128) if _PATTERNS["control_characters"].match(chr(byte)))


class Notice:
    """One kind: how many rows, which first, and for characters which ones and how often."""

    def __init__(self) -> None:
        self.rows = 0
        self.first: list[int] = []
        self.found: dict[str, int] = {}

    def add(self, row: int, found: dict[str, int]) -> None:
        self.rows += 1
        if len(self.first) < LISTED_ROWS:
            self.first.append(row)
        for name, count in found.items():
            if name in self.found or len(self.found) < LISTED_CHARACTERS:
                self.found[name] = self.found.get(name, 0) + count


class Notices:
    """Fed every sample once; `report` gives the JSON that is stored with the dataset."""

    def __init__(self) -> None:
        self._rows = 0
        self._notices: dict[str, Notice] = {}

    def note(self, kind: str) -> None:
        """Of the whole file."""
        self._notices.setdefault(kind, Notice())

    def add(self, batch: Batch) -> None:
        ends = list(accumulate(batch.counts))
        for position, end in enumerate(ends):
            answer = batch.contents[end - 1]
            if not answer or answer.isspace():
                self._add(EMPTY_ANSWER, position, {})
        for position, keys in batch.ignored.items():
            self._add(IGNORED_KEYS, position, _counts([shown_key(key)[1:-1] for key in keys]))
        if _suspicious(batch.contents):
            for position, (end, count) in enumerate(zip(ends, batch.counts, strict=True)):
                self._look(position, batch.contents[end - count : end])
        self._rows += len(batch)

    def report(self) -> list[dict[str, Any]]:
        return [
            {"kind": kind, "rows": notice.rows, "first_rows": notice.first, "found": notice.found}
            for kind in MEANINGS
            if (notice := self._notices.get(kind)) is not None
        ]

    def _look(self, position: int, contents: list[str]) -> None:
        if not any(map(_ANY_PATTERN.search, contents)):
            return
        for kind, pattern in _PATTERNS.items():
            found = _counts(chain.from_iterable(map(pattern.findall, contents)))
            if found:
                self._add(kind, position, {f"U+{ord(character):04X}": count for character, count in found.items()})

    def _add(self, kind: str, position: int, found: dict[str, int]) -> None:
        self._notices.setdefault(kind, Notice()).add(self._rows + position, found)


def _suspicious(contents: list[str]) -> bool:
    """Whether to look closer, found out fast."""
    # Imported here, since the API reads this module for its meanings alone.
    import pyarrow as pa
    import pyarrow.compute as pc

    text = "".join(contents)
    if text.isascii():
        data = text.encode()
        return len(data.translate(None, _ASCII_CONTROL)) != len(data)
    # Python's own search is ten times slower.
    return bool(pc.any(pc.match_substring_regex(pa.array([text], pa.large_string()), _ANY)).as_py())


def _counts(items: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts
