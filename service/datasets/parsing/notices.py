"""What is odd about rows that were taken: counted, and the first ones named. They are kept as they are."""

import re
from itertools import chain
from typing import Any

import pyarrow.compute as pc

from service.datasets.notice_kinds import EMPTY_ANSWER, IGNORED_KEYS, KINDS, MEANINGS
from service.datasets.parsing.columns import Columns, bytes_of
from service.datasets.parsing.strict_json import shown_key

LISTED_ROWS = 20
LISTED_CHARACTERS = 20


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

    def add(self, columns: Columns) -> None:
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


def _blank_answers(columns: Columns) -> list[int]:
    """Rows whose last turn is empty, or blank."""
    bounds, text = bytes_of(columns.contents)
    last = columns.bounds[1:] - 1
    blank = bounds[last] == bounds[last + 1]
    # What begins with a visible ASCII character is not.
    first = text[bounds[last][~blank]]
    blank[~blank] = (first <= ord(" ")) | (first >= 127)
    return [row for row in blank.nonzero()[0].tolist() if not columns.contents[int(last[row])].as_py().strip()]


def _suspicious(columns: Columns) -> list[int]:
    """Rows that hold a character that is noticed."""
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
