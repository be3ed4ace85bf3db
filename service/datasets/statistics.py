"""What an upload's rows look like in numbers, in memory that does not grow with text.

Eight bytes a row find the exact duplicates, and lie in a file where rows are many; everything else is bounded by
constants.
"""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import itemgetter
from typing import IO, Any

from service.datasets.batch import Batch
from service.datasets.strict_json import shown_key

COUNTED_COLUMNS = 100
"""Extra columns whose values are counted: the first ones seen."""
COUNTED_VALUES = 200
"""A column with more different values than this is no group column; its values are not listed."""
COUNTED_LENGTH = 100
"""Neither is one with a longer value, in characters."""
LISTED_VALUES = 20
LISTED_TURN_KEYS = 20
HELD_DIGESTS = 1 << 18
"""Rows whose digests are in memory at once."""
PARTS = 64
"""The digests in the file are counted in so many parts, each by itself in memory."""
LONGEST_TURNS = 64
"""Conversations of more turns are counted under this number."""


class Lengths:
    """Characters of texts: smallest, largest, mean, and a histogram whose bins double in width."""

    def __init__(self) -> None:
        self._counts = [0] * 64
        self._total = 0
        self._count = 0
        self._min: int | None = None
        self._max: int | None = None

    def add(self, lengths: Sequence[int]) -> None:
        if not lengths:
            return
        for bits, count in Counter(map(int.bit_length, lengths)).items():
            self._counts[bits] += count
        self._total += sum(lengths)
        self._count += len(lengths)
        least, most = min(lengths), max(lengths)
        self._min = least if self._min is None else min(self._min, least)
        self._max = most if self._max is None else max(self._max, most)

    def report(self) -> dict[str, Any]:
        """edges [0, 1, 2, 4, 8, ...]: counts[i] texts have edges[i] <= characters < edges[i + 1]."""
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
    """How often a column has which value; gives up where values are many, long or nested."""

    def __init__(self) -> None:
        self.present = 0
        self._values: Counter[Any] | None = Counter()

    @property
    def counts(self) -> bool:
        """Whether it still wants to know the values."""
        return self._values is not None

    def add(self, values: Sequence[Any]) -> None:
        self.present += len(values)
        if self._values is None:
            return
        # The type is part of the key, since True == 1 == 1.0 in Python and not in JSON.
        types = set(map(type, values))
        try:
            if len(types) == 1:
                (only,) = types
                found = Counter({(only, value): rows for value, rows in Counter(values).items()})
            else:
                found = Counter(zip(map(type, values), values, strict=True))
        except TypeError:  # a nested value
            self._values = None
            return
        for kind, value in found:
            if (kind is str and len(value) > COUNTED_LENGTH) or (kind is int and value.bit_length() > 63):
                self._values = None
                return
        self._values.update(found)
        if len(self._values) > COUNTED_VALUES:
            self._values = None

    def report(self) -> dict[str, Any]:
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
    """How many of many digests differ; an open file takes those that memory should not hold."""

    def __init__(self, scratch: IO[bytes]) -> None:
        self._scratch = scratch
        self._held: list[bytes] = []
        self._extents: list[list[tuple[int, int]]] = [[] for _ in range(PARTS)]
        """Of each part: offset and bytes of its pieces in the file."""

    def add(self, digests: Sequence[bytes]) -> None:
        self._held.extend(digest[:8] for digest in digests)
        if len(self._held) >= HELD_DIGESTS:
            self._spill()

    def _spill(self) -> None:
        parts: list[list[bytes]] = [[] for _ in range(PARTS)]
        for digest in self._held:
            parts[digest[0] % PARTS].append(digest)
        self._held = []
        for extents, part in zip(self._extents, parts, strict=True):
            extents.append((self._scratch.tell(), 8 * len(part)))
            self._scratch.write(b"".join(part))

    def distinct(self) -> int:
        """To be called once, at the end."""
        if not any(self._extents):
            return len(set(self._held))
        self._spill()
        self._scratch.flush()
        total = 0
        for extents in self._extents:
            data = b"".join([os.pread(self._scratch.fileno(), size, offset) for offset, size in extents])
            total += len(set(memoryview(data).cast("Q")))
        return total


class Statistics:
    """Fed every sample once; `report` gives the JSON that is stored with the dataset."""

    def __init__(self, scratch: IO[bytes]) -> None:
        """`scratch` is an empty file of nobody else's, open for reading and writing."""
        self._rows = 0
        self._roles: Counter[str] = Counter()
        self._turns: Counter[int] = Counter()
        self._prompts = Lengths()
        self._answers = Lengths()
        self._digests = Digests(scratch)
        self._columns: dict[str, ColumnValues] = {}
        self._ignored: Counter[str] = Counter()

    def add(self, batch: Batch, digests: Sequence[bytes]) -> None:
        """`digests` are the SHA-256 of the canonical messages of the batch's rows."""
        self._rows += len(batch)
        self._roles.update(batch.roles)
        for turns, rows in Counter(batch.counts).items():
            self._turns[min(turns, LONGEST_TURNS)] += rows
        ends = list(accumulate(batch.counts))
        lengths = list(map(len, batch.contents))
        before = list(accumulate(lengths, initial=0))
        answers = [lengths[end - 1] for end in ends]
        self._answers.add(answers)
        self._prompts.add(
            [before[end - 1] - before[end - count] for end, count in zip(ends, batch.counts, strict=True)]
        )
        self._digests.add(digests)
        self._add_columns(batch.extras)
        for key in chain.from_iterable(batch.ignored.values()):
            name = shown_key(key)[1:-1]
            if name in self._ignored or len(self._ignored) < LISTED_TURN_KEYS:
                self._ignored[name] += 1

    def _add_columns(self, extras: Sequence[dict[str, Any]]) -> None:
        shapes = Counter(map(tuple, extras))
        for name in chain.from_iterable(shapes):
            if name not in self._columns and len(self._columns) < COUNTED_COLUMNS:
                self._columns[name] = ColumnValues()
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

    def report(self) -> dict[str, Any]:
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
