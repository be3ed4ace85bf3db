"""What is odd about rows that were taken: counted, and the first ones named. They are kept as they are."""

import re
from itertools import chain
from typing import TYPE_CHECKING, Any

from service.datasets.parsing.strict_json import shown_key

if TYPE_CHECKING:  # the API reads this module for its meanings alone
    from service.datasets.parsing.columns import Columns

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
_PATTERNS = {name: re.compile(f"[{characters}]") for name, (characters, _) in KINDS.items()}


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

    def add(self, columns: "Columns") -> None:
        for row in _blank_answers(columns):
            self._add(EMPTY_ANSWER, row, {})
        for row, keys in columns.ignored.items():
            self._add(IGNORED_KEYS, row, _counts([shown_key(key)[1:-1] for key in keys]))
        for row in _suspicious(columns):
            start, end = columns.bounds[row : row + 2].tolist()
            self._look(row, columns.contents[start:end].to_pylist())
        self._rows += len(columns)

    def report(self) -> list[dict[str, Any]]:
        return [
            {"kind": kind, "rows": notice.rows, "first_rows": notice.first, "found": notice.found}
            for kind in MEANINGS
            if (notice := self._notices.get(kind)) is not None
        ]

    def _look(self, position: int, contents: list[str]) -> None:
        for kind, pattern in _PATTERNS.items():
            found = _counts(chain.from_iterable(map(pattern.findall, contents)))
            if found:
                self._add(kind, position, {f"U+{ord(character):04X}": count for character, count in found.items()})

    def _add(self, kind: str, position: int, found: dict[str, int]) -> None:
        self._notices.setdefault(kind, Notice()).add(self._rows + position, found)


def _blank_answers(columns: "Columns") -> list[int]:
    """Rows whose last turn is empty, or blank."""
    from service.datasets.parsing.columns import bytes_of

    bounds, text = bytes_of(columns.contents)
    last = columns.bounds[1:] - 1
    blank = bounds[last] == bounds[last + 1]
    # What begins with a visible ASCII character is not.
    first = text[bounds[last][~blank]]
    blank[~blank] = (first <= ord(" ")) | (first >= 127)
    return [row for row in blank.nonzero()[0].tolist() if not columns.contents[int(last[row])].as_py().strip()]


def _suspicious(columns: "Columns") -> list[int]:
    """Rows that hold a character that is noticed."""
    # Imported here, since the API reads this module for its meanings alone.
    import pyarrow.compute as pc

    from service.datasets.parsing.columns import bytes_of

    text = bytes_of(columns.contents)[1]
    control = (text < ord(" ")) & (text != ord("\t")) & (text != ord("\n")) & (text != ord("\r"))
    if not ((text >= 127) | control).any():
        return []
    # Python's own search is ten times slower.
    found = pc.match_substring_regex(columns.contents, _ANY).to_numpy(zero_copy_only=False)
    turns = found.nonzero()[0]
    return sorted(set((columns.bounds.searchsorted(turns, "right") - 1).tolist()))


def _counts(items: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts
