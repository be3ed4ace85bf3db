"""What the records of an upload's lines have in common: their keys in order, and the type of each value."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from service.datasets.parsing.records import TURN_COLUMNS, Mapping

MOST_KEYS = 64
"""More are not worth a column each."""

_SCALARS = {type(None): pa.null(), bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


@dataclass(frozen=True, slots=True)
class Shape:
    """Keys of one record format, each with an Arrow type that holds its values without a loss."""

    types: dict[str, Any]
    """By key, in the order in which records have them. Columns that become messages are among them."""
    needed: tuple[str, ...]
    """Columns that no record may lack."""
    optional: tuple[str, ...]
    """Further columns that become messages."""

    @property
    def schema(self) -> Any:
        """For Arrow's reader, which then guesses no type."""
        return pa.schema(self.types)

    @property
    def extra(self) -> list[str]:
        """The other columns."""
        return [key for key in self.types if key not in self.needed and key not in self.optional]


def learn(texts: Iterable[bytes], format: str, mapping: Mapping | None, known: Shape | None) -> Shape | None:
    """The shape of these records and of those `known`, without those that fit no shape; None where none is left."""
    needed, optional = _columns(format, mapping)
    kept = dict.fromkeys(needed + optional, pa.string())
    if format in TURN_COLUMNS:
        _, role, content, _ = TURN_COLUMNS[format]
        kept[needed[0]] = pa.list_(pa.struct([(role, pa.string()), (content, pa.string())]))
    types = {} if known is None else dict(known.types)
    for text in texts:
        with contextlib.suppress(orjson.JSONDecodeError):
            types = _with(orjson.loads(text), types, kept) or types
    if len(types) > MOST_KEYS or not set(needed) <= types.keys():
        return None
    return Shape(types, needed, optional)


def _with(record: Any, types: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any] | None:
    """The types of records like these and this one; None where there are none."""
    # Finding a place among very many keys takes time that grows with the square.
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


def _columns(format: str, mapping: Mapping | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns that become messages: those that are needed, and those that may be missing."""
    if mapping is not None:
        return (mapping.prompt, mapping.answer), () if mapping.system is None else (mapping.system,)
    if format in TURN_COLUMNS:
        return (TURN_COLUMNS[format][0],), ()
    return (("instruction", "output"), ("input",)) if format == "alpaca" else (("prompt", "completion"), ())


def _common(one: Any, other: Any) -> Any:
    """The type that holds values of both, or None."""
    if other is None or pa.types.is_null(one):
        return other
    return one if one == other or pa.types.is_null(other) else None
