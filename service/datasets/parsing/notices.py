"""Oddities of accepted rows: counted, with the first rows listed. The rows are kept unchanged."""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import orjson
import pyarrow.compute as pc

from service.contract.notices import CONTROL_TOKENS, UNDESIRED_ANSWERS, UNTRAINED_COLUMNS, ZERO_WEIGHTS
from service.datasets.notice_kinds import EMPTY_ANSWER, EMPTY_TURNS, IGNORED_KEYS, KINDS, MEANINGS, TOKENS
from service.datasets.parsing.columns import Columns, bytes_of
from service.datasets.parsing.strict_json import shown_key
from service.datasets.parsing.turns import ROLES

LISTED_ROWS = 20
"""Rows that a notice lists."""

LISTED_CHARACTERS = 20
"""Different things found that a notice lists."""

_ANY = "[" + "".join(characters for characters, _ in KINDS.values()) + "]"
_TOKENS = re.compile(TOKENS)

UNTRAINED = ("system", "history", "tools", "functions")
"""Extra columns that other trainers put into the prompt."""

LABELS = ("label", "kto_tag")
"""Extra columns that call an answer good or bad."""

WEIGHTS = ("weight", "sample_weight", "loss_weight")
"""Extra columns that say how much a row counts in training."""

_WATCHED = frozenset((*UNTRAINED, *LABELS, *WEIGHTS))
_NOTHING: tuple[Any, ...] = (None, "", "[]", "null", [], {})

_PATTERNS = {name: re.compile(f"[{characters}]") for name, (characters, _) in KINDS.items()}


class Notice:
    """One kind of oddity: how many rows have it, the first ones, and what was found and how often."""

    def __init__(self) -> None:
        """Begin with no row."""
        self.rows = 0
        self.first: list[int] = []
        self.found: dict[str, int] = {}

    def add(self, row: int, found: dict[str, int]) -> None:
        """Count a row.

        Args:
            row: Its position in the upload.
            found: What was found in it, and how often.
        """
        self.rows += 1
        if len(self.first) < LISTED_ROWS:
            self.first.append(row)
        self.count(found)

    def count(self, found: dict[str, int]) -> None:
        """Add up what was found, of at most LISTED_CHARACTERS kinds."""
        for name, count in found.items():
            if name in self.found or len(self.found) < LISTED_CHARACTERS:
                self.found[name] = self.found.get(name, 0) + count


class Notices:
    """The notices of an upload. `add` every row once; `report` gives the JSON that is stored with the dataset."""

    def __init__(self) -> None:
        """Begin with no row."""
        self._rows = 0
        self._notices: dict[str, Notice] = {}

    def note(self, kind: str, found: Sequence[str] = ()) -> None:
        """Note an oddity of the whole file.

        Args:
            kind: The notice's name.
            found: What was found.
        """
        self._notices.setdefault(kind, Notice()).count(_counts(found))

    def of_row(self, kind: str, row: int, found: Sequence[str]) -> None:
        """Note an oddity that the reader found in one row.

        Args:
            kind: The notice's name.
            row: The row's position in the upload.
            found: What was found.
        """
        self._notices.setdefault(kind, Notice()).add(row, _counts(found))

    def add(self, columns: Columns) -> None:
        """Look for oddities in the next rows."""
        for row in _blank_answers(columns):
            self._add(EMPTY_ANSWER, row, {})
        for row, roles in _blank_turns(columns).items():
            self._add(EMPTY_TURNS, row, _counts(roles))
        noted = {row: list(found) for row, found in columns.noted.items()}
        for row, extra in enumerate(_watched(columns)):
            if not _WATCHED.isdisjoint(extra):
                noted.setdefault(row, []).extend(_of_columns(extra))
        for row in sorted(noted):
            for kind in dict.fromkeys(kind for kind, _ in noted[row]):
                self._add(kind, row, _counts(what for other, what in noted[row] if other == kind))
        for row in _rows_with(columns, _TOKENS.pattern, "<["):
            start, end = columns.bounds[row : row + 2].tolist()
            texts = columns.contents[start:end].to_pylist()
            self._add(CONTROL_TOKENS, row, _counts(chain.from_iterable(map(_TOKENS.findall, texts))))
        for row, keys in columns.ignored.items():
            self._add(IGNORED_KEYS, row, _counts([shown_key(key)[1:-1] for key in keys]))
        for row in _suspicious(columns):
            start, end = columns.bounds[row : row + 2].tolist()
            self._look(row, columns.contents[start:end].to_pylist())
        self._rows += len(columns)

    def report(self) -> list[dict[str, Any]]:
        """Return the notices that apply, as JSON."""
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


def _of_columns(extra: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the kinds of notices that a row's other columns give, each with the column's name."""
    return [
        *((UNTRAINED_COLUMNS, name) for name in UNTRAINED if extra.get(name) not in _NOTHING),
        *((ZERO_WEIGHTS, name) for name in WEIGHTS if _is_not_positive(extra.get(name))),
        *((UNDESIRED_ANSWERS, name) for name in LABELS if str(extra.get(name)).strip().lower() in ("false", "0")),
    ]


def _is_not_positive(weight: Any) -> bool:
    """Whether a weight, which may be a number or the text of one, is zero or less; False for anything else."""
    if isinstance(weight, bool):
        return not weight
    try:
        return float(weight) <= 0
    except (TypeError, ValueError):
        return False


def _blank_answers(columns: Columns) -> list[int]:
    """Return the rows whose last turn is empty or blank."""
    bounds, text = bytes_of(columns.contents)
    last = columns.bounds[1:] - 1
    blank = bounds[last] == bounds[last + 1]
    # What begins with a visible ASCII character is not.
    first = text[bounds[last][~blank]]
    blank[~blank] = (first <= ord(" ")) | (first >= 127)
    return [row for row in blank.nonzero()[0].tolist() if not columns.contents[int(last[row])].as_py().strip()]


def _blank_turns(columns: Columns) -> dict[int, list[str]]:
    """Return the roles of empty or blank turns before the last one, by row."""
    bounds, text = bytes_of(columns.contents)
    blank = bounds[:-1] == bounds[1:]
    # What begins with a visible ASCII character is not.
    first = text[bounds[:-1][~blank]]
    blank[~blank] = (first <= ord(" ")) | (first >= 127)
    blank[columns.bounds[1:] - 1] = False
    found: dict[int, list[str]] = {}
    turns = blank.nonzero()[0]
    rows = columns.bounds.searchsorted(turns, "right") - 1
    for turn, row in zip(turns.tolist(), rows.tolist(), strict=True):
        if not columns.contents[turn].as_py().strip():
            found.setdefault(row, []).append(ROLES[columns.roles[turn]])
    return found


def _watched(columns: Columns) -> Sequence[dict[str, Any]]:
    """Return the extra columns of all rows, or nothing if none of them is watched."""
    if columns.extras or _WATCHED.isdisjoint(columns.values):
        return columns.extras
    return list(map(orjson.loads, columns.extra_json.to_pylist()))


def _rows_with(columns: Columns, pattern: str, beginnings: str) -> list[int]:
    """Return the rows in which a pattern matches that begins with one of these ASCII characters."""
    text = bytes_of(columns.contents)[1]
    if not any((text == ord(character)).any() for character in beginnings):
        return []
    return _rows_matching(columns, pattern)


def _suspicious(columns: Columns) -> list[int]:
    """Return the rows that hold a suspicious character."""
    text = bytes_of(columns.contents)[1]
    control = (text < ord(" ")) & (text != ord("\t")) & (text != ord("\n")) & (text != ord("\r"))
    if not ((text >= 127) | control).any():
        return []
    return _rows_matching(columns, _ANY)


def _rows_matching(columns: Columns, pattern: str) -> list[int]:
    # Python's own search is ten times slower.
    found = pc.match_substring_regex(columns.contents, pattern).to_numpy(zero_copy_only=False)
    return sorted(set((columns.bounds.searchsorted(found.nonzero()[0], "right") - 1).tolist()))


def _counts(items: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts
