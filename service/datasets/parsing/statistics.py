"""Statistics of an upload's rows, in memory that does not grow with the text.

Eight bytes a row find the exact duplicates, and are kept in a file if there are many rows; everything else is bounded
by constants.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.datasets.parsing.columns import Columns, bounds_of, bytes_of
from service.datasets.parsing.strict_json import shown_key
from service.datasets.parsing.turns import ROLES

COUNTED_COLUMNS = 100
"""How many extra columns have their values counted: the first ones seen."""

COUNTED_VALUES = 200
"""The values of a column with more different ones are not listed: it is no group column."""

COUNTED_LENGTH = 100
"""The values of a column with a longer one, in characters, are not listed either."""

LISTED_VALUES = 20
"""Values of a column that are listed."""

LISTED_TURN_KEYS = 20
"""Keys of turns that are listed."""

HELD_DIGESTS = 1 << 18
"""Rows whose digests are in memory at once."""

PARTS = 64
"""Parts in which the digests in the file are counted, each by itself in memory."""

LONGEST_TURNS = 64
"""Conversations with more turns are counted under this number."""


class Lengths:
    """The lengths of texts in characters: smallest, largest, mean, and a histogram whose bins double in width."""

    def __init__(self) -> None:
        """Begin with no text."""
        self._counts = [0] * 64
        self._total = 0
        self._count = 0
        self._min: int | None = None
        self._max: int | None = None

    def add(self, lengths: NDArray[np.int64]) -> None:
        """Count more lengths, [texts] in characters."""
        if not len(lengths):
            return
        # The exponent of a positive integer is how many bits it has.
        for bits, count in enumerate(np.bincount(np.frexp(lengths)[1]).tolist()):
            self._counts[bits] += count
        self._total += int(lengths.sum())
        self._count += len(lengths)
        least, most = int(lengths.min()), int(lengths.max())
        self._min = least if self._min is None else min(self._min, least)
        self._max = most if self._max is None else max(self._max, most)

    def report(self) -> dict[str, Any]:
        """Return the statistics; counts[i] texts have edges[i] <= characters < edges[i + 1]."""
        used = 0 if self._max is None else self._max.bit_length() + 1
        return {
            "min": self._min,
            "mean": self._total / self._count if self._count else None,
            "max": self._max,
            "histogram": {
                "edges": [0, *(1 << power for power in range(used))],
                "counts": self._counts[:used],
            },
        }


class ColumnValues:
    """How often a column has each value; it stops counting if values are many, long or nested."""

    def __init__(self) -> None:
        """Begin with no value."""
        self.present = 0
        self._values: Counter[Any] | None = Counter()

    @property
    def counts(self) -> bool:
        """Whether values are still counted."""
        return self._values is not None

    def add(self, values: Sequence[Any]) -> None:
        """Count the values of more rows."""
        self.present += len(values)
        if self._values is None:
            return
        # The type is part of the key, since True == 1 == 1.0 in Python and not in JSON.
        types = set(map(type, values))
        try:
            if len(types) == 1:
                (only,) = types
                found = {(only, value): rows for value, rows in Counter(values).items()}
            else:
                found = Counter(zip(map(type, values), values, strict=True))
        except TypeError:  # a nested value
            self._values = None
            return
        self._count(found.items())

    def add_array(self, values: Any) -> None:
        """Count the values of an Arrow array of scalars; None is a null."""
        self.present += len(values)
        if self._values is None:
            return
        if pa.types.is_null(values.type):
            self._count([((type(None), None), len(values))])
            return
        counted = pc.value_counts(values)
        if len(counted) > COUNTED_VALUES:
            self._values = None
            return
        found, rows = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
        self._count(((type(value), value), count) for value, count in zip(found, rows, strict=True))

    def _count(self, found: Iterable[tuple[tuple[type, Any], int]]) -> None:
        assert self._values is not None
        for (kind, value), rows in found:
            if (kind is str and len(value) > COUNTED_LENGTH) or (kind is int and value.bit_length() > 63):
                self._values = None
                return
            self._values[kind, value] += rows
        if len(self._values) > COUNTED_VALUES:
            self._values = None

    def report(self) -> dict[str, Any]:
        """Return how many rows have the column, and the most frequent values with their counts."""
        if self._values is None:
            return {"rows": self.present, "distinct": None, "values": None}
        return {
            "rows": self.present,
            "distinct": len(self._values),
            "values": [
                {"value": value, "rows": count} for (_, value), count in self._values.most_common(LISTED_VALUES)
            ],
        }


class Digests:
    """A count of the different digests among many; an open file takes those that memory should not hold."""

    def __init__(self, scratch: IO[bytes]) -> None:
        """Begin with no digest; `scratch` is an empty file for this object alone."""
        self._scratch = scratch
        self._held: list[NDArray[np.uint64]] = []
        self._held_rows = 0
        self._extents: list[list[tuple[int, int]]] = [[] for _ in range(PARTS)]
        """For each part, offset and bytes of its pieces in the file."""

    def add(self, digests: bytes) -> None:
        """Add the SHA-256 of some rows, 32 bytes each."""
        self._held.append(np.frombuffer(digests, np.uint64)[::4].copy())
        self._held_rows += len(self._held[-1])
        if self._held_rows >= HELD_DIGESTS:
            self._spill()

    def _spill(self) -> None:
        digests = np.concatenate(self._held)
        self._held, self._held_rows = [], 0
        parts = digests % PARTS
        bounds = bounds_of(8 * np.bincount(parts.astype(np.int64), minlength=PARTS)).tolist()
        offset = self._scratch.tell()
        for extents, start, end in zip(self._extents, bounds, bounds[1:], strict=False):
            extents.append((offset + start, end - start))
        self._scratch.write(digests[np.argsort(parts, kind="stable")].tobytes())

    def distinct(self) -> int:
        """Return how many are different. Call it once, at the end."""
        if not any(self._extents):
            return _distinct(np.concatenate(self._held)) if self._held else 0
        if self._held:
            self._spill()
        self._scratch.flush()
        total = 0
        for extents in self._extents:
            data = b"".join([os.pread(self._scratch.fileno(), size, offset) for offset, size in extents])
            total += _distinct(np.frombuffer(data, np.uint64))
        return total


class Statistics:
    """The statistics of an upload. `add` every row once; `report` gives the JSON that is stored with the dataset."""

    def __init__(self, scratch: IO[bytes]) -> None:
        """Begin with no row. `scratch` is an empty file for this object alone, open for reading and writing."""
        self._rows = 0
        self._roles: Counter[str] = Counter()
        self._turns: Counter[int] = Counter()
        self._prompts = Lengths()
        self._answers = Lengths()
        self._digests = Digests(scratch)
        self._columns: dict[str, ColumnValues] = {}
        self._ignored: Counter[str] = Counter()

    def add(self, columns: Columns, digests: bytes) -> None:
        """Count more rows.

        Args:
            columns: The rows.
            digests: SHA-256 of each row's canonical messages, 32 bytes each.
        """
        self._rows += len(columns)
        rows = np.bincount(columns.roles, minlength=len(ROLES))
        for role in sorted(np.flatnonzero(rows).tolist(), key=lambda role: int((columns.roles == role).argmax())):
            self._roles[ROLES[role]] += int(rows[role])
        starts, ends = columns.bounds[:-1], columns.bounds[1:]
        for turns, count in enumerate(np.bincount(np.minimum(ends - starts, LONGEST_TURNS)).tolist()):
            if count:
                self._turns[turns] += count
        before = bounds_of(_characters(columns.contents))
        self._answers.add(before[ends] - before[ends - 1])
        self._prompts.add(before[ends - 1] - before[starts])
        self._digests.add(digests)
        self._add_columns(columns.extras)
        for name in columns.values:
            self._column(name)
        for name, values in columns.values.items():
            if (column := self._columns.get(name)) is not None:
                column.add_array(values)
        for key in chain.from_iterable(columns.ignored.values()):
            name = shown_key(key)[1:-1]
            if name in self._ignored or len(self._ignored) < LISTED_TURN_KEYS:
                self._ignored[name] += 1

    def _add_columns(self, extras: Sequence[dict[str, Any]]) -> None:
        shapes = Counter(map(tuple, extras))
        for name in chain.from_iterable(shapes):
            self._column(name)
        rows = Counter[str]()
        for shape, count in shapes.items():
            rows.update(dict.fromkeys(shape, count))
        for name, count in rows.items():
            column = self._columns.get(name)
            if column is None:
                continue
            if not column.counts:
                column.present += count
            elif count == len(extras):
                column.add(list(map(itemgetter(name), extras)))
            else:
                column.add([extra[name] for extra in extras if name in extra])

    def _column(self, name: str) -> None:
        if name not in self._columns and len(self._columns) < COUNTED_COLUMNS:
            self._columns[name] = ColumnValues()

    def report(self) -> dict[str, Any]:
        """Return the statistics as JSON."""
        return {
            "rows": self._rows,
            "roles": dict(self._roles),
            "turns": [{"turns": turns, "rows": rows} for turns, rows in sorted(self._turns.items())],
            "prompt_characters": self._prompts.report(),
            "answer_characters": self._answers.report(),
            "exact_duplicates": self._rows - self._digests.distinct(),
            "columns": [{"name": name, **values.report()} for name, values in self._columns.items()],
            "ignored_turn_keys": dict(self._ignored),
        }


def _distinct(numbers: NDArray[np.uint64]) -> int:
    ordered = np.sort(numbers)  # several times as fast as numpy's own search for unique ones
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + (len(ordered) > 0)


def _characters(texts: Any) -> NDArray[np.int64]:
    """Return the number of characters of each Arrow string."""
    bounds, text = bytes_of(texts)
    lengths = np.diff(bounds) if (text < 128).all() else pc.utf8_length(texts).to_numpy()
    return lengths.astype(np.int64)
