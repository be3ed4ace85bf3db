"""What the records of an upload's lines have in common: their keys in order, and the type of each value."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from service.datasets.parsing.records import Mapping, TurnColumns, text_columns

MOST_KEYS = 64
"""Records with more keys are not read as columns."""

_SCALARS = {type(None): pa.null(), bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


@dataclass(frozen=True, slots=True)
class Shape:
    """The keys of one record format, each with an Arrow type that holds its values without loss."""

    types: dict[str, Any]
    """Types by key, in the order in which records have them; columns that become messages are among them."""
    needed: tuple[str, ...]
    """Columns that no record may lack."""
    optional: tuple[str, ...]
    """Further columns that become messages."""

    @property
    def schema(self) -> Any:
        """The schema for Arrow's reader, so that it guesses no type."""
        return pa.schema(self.types)

    @property
    def extra(self) -> list[str]:
        """The columns that do not become messages."""
        return [key for key in self.types if key not in self.needed and key not in self.optional]


def learn(texts: Iterable[bytes], format: str, mapping: Mapping | None, known: Shape | None) -> Shape | None:
    """Find the shape that these records share with those seen before.

    Args:
        texts: Records as JSON. Those that fit no shape are skipped.
        format: Their record format.
        mapping: The columns of their texts, if they have no known format.
        known: The shape of the records seen before.

    Returns:
        The shape; None if no common one has all needed columns and at most MOST_KEYS keys.
    """
    columns = text_columns(format, mapping)
    kept = dict.fromkeys(columns.needed + columns.optional, pa.string())
    if isinstance(columns, TurnColumns):
        kept[columns.turns] = pa.list_(pa.struct([(columns.role_key, pa.string()), (columns.text_key, pa.string())]))
    types = {} if known is None else dict(known.types)
    for text in texts:
        with contextlib.suppress(orjson.JSONDecodeError):
            types = _with(orjson.loads(text), types, kept) or types
    if len(types) > MOST_KEYS or not set(columns.needed) <= types.keys():
        return None
    return Shape(types, columns.needed, columns.optional)


def _with(record: Any, types: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any] | None:
    """Return the types of records like these and this one; None if there are none."""
    # The time to find a place among very many keys grows with their square.
    if not isinstance(record, dict) or len(record) > MOST_KEYS:
        return None
    order, found, place = list(types), dict(types), 0
    for key, value in record.items():
        kind = kept.get(key) or _common(types.get(key, pa.null()), _SCALARS.get(type(value)))
        if kind is None or "\0" in key:
            return None
        if key in types:
            place = order.index(key)
        else:
            order.insert(place, key)
        found[key] = kind
        place += 1
    return {key: found[key] for key in order}


def _common(one: Any, other: Any) -> Any:
    """Return the type that holds values of both, or None."""
    if other is None or pa.types.is_null(one):
        return other
    return one if one == other or pa.types.is_null(other) else None
