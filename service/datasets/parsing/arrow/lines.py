"""The fastest way from lines to columns: Arrow's JSON reader and its kernels, which make no Python objects of rows.

Like `batch` it accepts only lines that are clearly valid and of one shape, and returns None for all others. What
Arrow's reader accepts and `strict_json` refuses, or what it would read differently, is looked for here: several records
on a line, or one on several; infinities; numbers that another type writes differently; keys in another order, a null
for a missing key; bytes that are not UTF-8; NULs.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from numpy.typing import NDArray

from service.datasets.parsing.arrow.key_order import Field, Found, walk
from service.datasets.parsing.arrow.line_shape import Shape, learn
from service.datasets.parsing.columns import Columns, bounds_of, bytes_of, strings_of
from service.datasets.parsing.json_strings import escaped, json_of, unescaped_quotes
from service.datasets.parsing.readers.jsonl import Lines
from service.datasets.parsing.records import MAX_TURNS, Mapping, PairColumns, TurnColumns, text_columns
from service.datasets.parsing.turns import ROLES

LEARNT_LINES = 32
"""How many lines, spread over a text, are looked at to learn the shape of the others."""

HALVINGS = 4
"""How often a text is halved to separate an odd line from the others; the rest is read one by one."""

LONGEST_PAUSE = 64
"""The most texts that are skipped after others of which less than half could be read in this way."""

_USER = ROLES.index("user")
_ASSISTANT = ROLES.index("assistant")
_AS_FLOAT = re.compile(rb"\s*:\s*-?[0-9]+[.eE]")

_OPENINGS = pa.array([',{"content":"', '[{"content":"'])
_CLOSINGS = pa.array([f'","role":"{role}"}}{end}' for role in ROLES for end in ("", "]")])


class ArrowLines:
    """A reader of lines of one format that expects the shape of earlier ones; after failures it tries less often."""

    def __init__(self, format: str, mapping: Mapping | None) -> None:
        """Begin without a shape.

        Args:
            format: The record format.
            mapping: The columns of the texts, if the records have no known format.
        """
        self._format = format
        self._mapping = mapping
        self._shape: Shape | None = None
        self._failures = self._pause = 0

    def read(self, lines: Lines) -> Iterator[tuple[Lines, Columns | None]]:
        """Yield the lines in one or several pieces, each with its columns; None where a piece is not clearly valid."""
        if self._pause:
            self._pause -= 1
            yield lines, None
            return
        columns = self._columns(lines)
        if columns is None and self._learn(lines):
            columns = self._columns(lines)
        left = 0
        for part in self._halves(lines, HALVINGS) if columns is None else [(lines, columns)]:
            if part[1] is None:
                left += len(part[0].text)
            yield part
        in_vain = 2 * left > len(lines.text)
        self._failures = self._failures + 1 if in_vain else 0
        self._pause = min(2**self._failures - 1, LONGEST_PAUSE) if in_vain else 0

    def _halves(self, lines: Lines, more: int) -> Iterator[tuple[Lines, Columns | None]]:
        halves = lines.halves() if more and self._shape is not None else None
        if halves is None:
            yield lines, None
            return
        for half in halves:
            columns = self._columns(half)
            if columns is not None:
                yield half, columns
            else:
                yield from self._halves(half, more - 1)

    def _learn(self, lines: Lines) -> bool:
        """Return whether there is another shape to try."""
        texts = lines.block().texts
        shape = learn(texts[:: -(-len(texts) // LEARNT_LINES) or 1], self._format, self._mapping, self._shape)
        if shape is None or shape == self._shape:
            return False
        self._shape = shape
        return True

    def _columns(self, lines: Lines) -> Columns | None:
        if self._shape is None:
            return None
        try:
            return _columns(lines, self._shape, self._format, self._mapping)
        except pa.ArrowInvalid:
            return None


def _columns(lines: Lines, shape: Shape, format: str, mapping: Mapping | None) -> Columns | None:
    text = lines.text if lines.text.endswith(b"\n") else lines.text + b"\n"
    view = np.frombuffer(text, np.uint8)
    where = _objects(view)
    if where is None or b"\0" in text:
        return None
    starts, lengths = where
    if not text.isascii():
        strings_of(np.array([0, len(text)]), text).validate(full=True)
    columns = _read(text, shape, len(starts))
    if columns is None:
        return None
    turns = _turns(columns, text_columns(format, mapping))
    if turns is None:
        return None
    roles, contents, bounds = turns
    fields = [_field(columns[key], key, shape, bounds, text.isascii()) for key in shape.types]
    found = walk(view, unescaped_quotes(view), starts, fields)
    if found is None:
        return None
    places = dict(zip(shape.types, found, strict=True))
    extra = {key: columns[key] for key in shape.extra}
    texts = [contents, *(values for values in extra.values() if pa.types.is_string(values.type))]
    if b"\\" in text and any((bytes_of(strings)[1] == 0).any() for strings in texts):
        return None
    if not all(_are_floats(text, values, places[key]) for key, values in extra.items()):
        return None
    canonical, canonical_bounds = _canonical(roles, contents, bounds)
    return Columns(
        roles=roles,
        contents=contents,
        bounds=bounds,
        canonical=canonical,
        canonical_bounds=canonical_bounds,
        extra_json=_extra_json(extra, places, len(starts)),
        starts=lines.start + starts,
        lengths=lengths,
        values=_values(extra, places),
    )


def _objects(text: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Where each line begins and how long it is, if each begins and ends with a brace; else None.

    In valid JSON, a closing brace and an opening one with no comma between end one record and begin another. So if
    there are as many records as such lines, each line is one.
    """
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts
    if lengths.min() < 3:
        return None
    lengths -= text[ends - 1] == ord("\r")
    if (text[starts] != ord("{")).any() or (text[starts + lengths - 1] != ord("}")).any():
        return None
    return starts, lengths


def _read(text: bytes, shape: Shape, rows: int) -> dict[str, Any] | None:
    """Read the values of each key as an Arrow array without an offset. Raises ArrowInvalid."""
    table = pyarrow.json.read_json(
        pa.BufferReader(text),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=shape.schema, unexpected_field_behavior="error"),
    )
    if table.num_rows != rows:
        return None
    columns = {key: table.column(key).chunk(0) for key in shape.types if table.column(key).num_chunks == 1}
    return columns if len(columns) == len(shape.types) else None


_Turns = tuple[NDArray[np.int32], Any, NDArray[np.int32]]
"""Roles, contents and bounds as in Columns."""


def _turns(columns: dict[str, Any], texts: TurnColumns | PairColumns) -> _Turns | None:
    if isinstance(texts, TurnColumns):
        return _of_lists(columns[texts.turns], texts)
    prompts = columns[texts.prompt]
    given = None if texts.input is None else columns.get(texts.input)
    if given is not None:
        both = pc.binary_join_element_wise(prompts, given, "\n\n", null_handling="skip")
        prompts = pc.if_else(pc.fill_null(pc.greater(pc.binary_length(given), 0), False), both, prompts)
    return _of_pairs(prompts, columns[texts.answer], None if texts.system is None else columns.get(texts.system))


def _of_lists(lists: Any, columns: TurnColumns) -> _Turns | None:
    bounds = np.frombuffer(lists.buffers()[1], np.int32)[: len(lists) + 1]
    turns = lists.values
    written, contents = turns.field(columns.role_key), turns.field(columns.text_key)
    if lists.null_count or turns.null_count or contents.null_count:
        return None
    counts = np.diff(bounds)
    if (counts == 0).any() or (counts > MAX_TURNS).any():
        return None
    numbers = pc.index_in(written, pa.array(list(columns.roles)))
    if numbers.null_count:
        return None
    roles = np.array([ROLES.index(role) for role in columns.roles.values()], np.int32)[numbers.to_numpy()]
    if (roles[bounds[1:] - 1] != _ASSISTANT).any():
        return None
    return roles, contents, bounds


def _of_pairs(prompts: Any, answers: Any, systems: Any) -> _Turns | None:
    if prompts.null_count or answers.null_count:
        return None
    rows = len(prompts)
    texts, roles, there = [prompts, answers], [_USER, _ASSISTANT], np.ones((rows, 2), bool)
    if systems is not None:
        texts, roles = [systems, *texts], [ROLES.index("system"), *roles]
        spoken = pc.fill_null(pc.greater(pc.binary_length(systems), 0), False)
        there = np.column_stack([spoken.to_numpy(zero_copy_only=False), there])
    # Turn k of each row is in texts[k], so that the rows are the columns of a table of all texts.
    places = np.arange(len(texts) * rows).reshape(len(texts), rows).T[there]
    contents = pa.concat_arrays(texts).take(pa.array(places))
    return np.tile(np.array(roles, np.int32), (rows, 1))[there], contents, bounds_of(there.sum(axis=1)).astype(np.int32)


def _nulls(values: Any) -> NDArray[np.bool_] | None:
    """[rows]; None where there are none."""
    return values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None


def _field(values: Any, key: str, shape: Shape, bounds: NDArray[np.int32], ascii_only: bool) -> Field:
    nulls = _nulls(values)
    if pa.types.is_list(values.type):
        strings = 4 * np.diff(bounds).astype(np.int64)  # two keys and two texts a turn
    elif pa.types.is_string(values.type):
        strings = np.ones(len(values), np.int64) if nulls is None else (~nulls).astype(np.int64)
    else:
        strings = np.zeros(len(values), np.int64)
    written = json.dumps(key, ensure_ascii=ascii_only)[1:-1].encode()
    return Field(written, strings, None if key in shape.needed else nulls)


def _are_floats(text: bytes, values: Any, found: Found) -> bool:
    """Return whether all values of a float column are finite and none is written as an integer, which stays one."""
    if not pa.types.is_floating(values.type):
        return True
    numbers = values.drop_null().to_numpy()
    if not np.isfinite(numbers).all():
        return False
    whole = numbers == np.floor(numbers)
    if not whole.any():
        return True
    given = values if found.present is None else values.filter(pa.array(found.present))
    nulls = _nulls(given)
    places = (found.behind if nulls is None else found.behind[~nulls])[whole]
    return all(_AS_FLOAT.match(text, place) for place in places.tolist())


def _canonical(roles: NDArray[np.int32], contents: Any, bounds: NDArray[np.int32]) -> tuple[Any, NDArray[np.int64]]:
    first, last = np.zeros(len(roles), np.int32), np.zeros(len(roles), np.int32)
    first[bounds[:-1]] = last[bounds[1:] - 1] = 1
    openings, closings = _OPENINGS.take(pa.array(first)), _CLOSINGS.take(pa.array(2 * roles + last))
    turns = pc.binary_join_element_wise(openings, escaped(contents), closings, "")
    return turns.buffers()[2], bytes_of(turns)[0][bounds].astype(np.int64)


def _extra_json(extra: dict[str, Any], places: dict[str, Found], rows: int) -> Any:
    if not extra:
        return pa.array(["{}"] * rows, pa.string())
    pieces: list[Any] = []
    complete = all(places[key].present is None for key in extra)
    for key, values in extra.items():
        name, text = f"{orjson.dumps(key).decode()}:", json_of(values)
        if complete:
            pieces += ["," if pieces else "{", name, text]
        else:
            member = pc.binary_join_element_wise(",", name, text, "")
            present = places[key].present
            pieces.append(member if present is None else pc.if_else(pa.array(present), member, ""))
    if complete:
        return pc.binary_join_element_wise(*pieces, "}", "")
    members = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*pieces, ""), 1)
    return pc.binary_join_element_wise("{", members, "}", "")


def _values(extra: dict[str, Any], places: dict[str, Found]) -> dict[str, Any]:
    """Return the values as Columns has them, in the order in which a reader of the rows meets them."""
    met = []
    for order, (key, values) in enumerate(extra.items()):
        present = places[key].present
        if present is None:
            met.append((0, order, key, values))
        elif present.any():
            met.append((int(present.argmax()), order, key, values.filter(pa.array(present))))
    return {key: values for _, _, key, values in sorted(met, key=lambda entry: entry[:2])}
