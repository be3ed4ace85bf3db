"""What an upload's rows look like in numbers, in memory that does not grow with text.

Eight bytes a row find the exact duplicates; everything else is bounded by constants.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

from service.datasets.records import Sample
from service.datasets.strict_json import shown_key

COUNTED_COLUMNS = 100
"""Extra columns whose values are counted: the first ones seen."""
COUNTED_VALUES = 200
"""A column with more different values than this is no group column; its values are not listed."""
COUNTED_LENGTH = 100
"""Neither is one with a longer value, in characters."""
LISTED_VALUES = 20
LISTED_TURN_KEYS = 20
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

    def add(self, length: int) -> None:
        self._counts[length.bit_length()] += 1
        self._total += length
        self._count += 1
        if self._min is None or length < self._min:
            self._min = length
        if self._max is None or length > self._max:
            self._max = length

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

    def add(self, value: Any) -> None:
        self.present += 1
        if self._values is None:
            return
        too_long = isinstance(value, str) and len(value) > COUNTED_LENGTH
        if too_long or isinstance(value, dict | list) or (isinstance(value, int) and value.bit_length() > 63):
            self._values = None
            return
        # The type is part of the key, since True == 1 == 1.0 in Python and not in JSON.
        self._values[(type(value), value)] += 1
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


class Statistics:
    """Fed every sample once; `report` gives the JSON that is stored with the dataset."""

    def __init__(self) -> None:
        self._rows = 0
        self._roles: Counter[str] = Counter()
        self._turns: Counter[int] = Counter()
        self._prompts = Lengths()
        self._answers = Lengths()
        self._digests = array("Q")
        self._columns: dict[str, ColumnValues] = {}
        self._ignored: Counter[str] = Counter()

    def add(self, sample: Sample, digest: bytes) -> None:
        """`digest` is the SHA-256 of the sample's canonical messages."""
        self._rows += 1
        messages = sample.messages
        self._roles.update([message["role"] for message in messages])
        self._turns[min(len(messages), LONGEST_TURNS)] += 1
        self._answers.add(len(messages[-1]["content"]))
        self._prompts.add(sum([len(message["content"]) for message in messages[:-1]]))
        self._digests.append(int.from_bytes(digest[:8]))
        for key, value in sample.extra.items():
            column = self._columns.get(key)
            if column is None:
                if len(self._columns) >= COUNTED_COLUMNS:
                    continue
                column = self._columns[key] = ColumnValues()
            column.add(value)
        for key in sample.ignored_keys:
            name = shown_key(key)[1:-1]
            if name in self._ignored or len(self._ignored) < LISTED_TURN_KEYS:
                self._ignored[name] += 1

    def report(self) -> dict[str, Any]:
        return {
            "rows": self._rows,
            "roles": dict(self._roles),
            "turns": [{"turns": turns, "rows": rows} for turns, rows in sorted(self._turns.items())],
            "prompt_characters": self._prompts.report(),
            "answer_characters": self._answers.report(),
            "exact_duplicates": self._rows - _distinct(self._digests),
            "columns": [{"name": name, **values.report()} for name, values in self._columns.items()],
            "ignored_turn_keys": dict(self._ignored),
        }


def _distinct(digests: Sequence[int]) -> int:
    """Different numbers among them; in 64 parts, so that only one part's hash table is in memory."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pa.Array.from_buffers(pa.uint64(), len(digests), [None, pa.py_buffer(digests)])
    parts = pc.shift_right(values, pa.scalar(58, pa.uint64()))
    return sum(
        pc.count_distinct(values.filter(pc.equal(parts, pa.scalar(part, pa.uint64())))).as_py() for part in range(64)
    )
