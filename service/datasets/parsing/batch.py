"""Some samples in lists, and a fast way from records of any shape to them: by whole columns, at the speed of C.

It takes only records that are plainly good, and says None of all others. Those are then read one by one by
`strict_json` and `records`, which alone decide what is wrong with a record; so nothing is decided twice.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from operator import itemgetter, methodcaller
from typing import Any

import orjson

from service.datasets.parsing.records import MAX_TURNS, Mapping, PairColumns, Sample, TurnColumns, text_columns
from service.datasets.parsing.strict_json import MAX_DEPTH
from service.datasets.parsing.turns import WEIGHED_KEYS

_DIGITS_AS_ZERO = bytes(ord("0") if chr(byte) in "0123456789" else byte for byte in range(256))
_LONG_INTEGER = b"0" * 20
"""Integers of fewer digits fit 64 bits, so that the fast parser keeps them exactly."""

_SCALARS = {str, int, bool, type(None)}
_TEXT_OR_NONE = {str, type(None)}


@dataclass(slots=True)
class Batch:
    """Rows one after the other; `counts` holds the number of turns of each."""

    roles: list[str]
    contents: list[str]
    counts: list[int]
    extras: list[dict[str, Any]]
    """The other columns."""
    ignored: dict[int, tuple[str, ...]]
    """Position in the batch: keys of turns that no audit uses. Rows without any are not there."""
    noted: dict[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Position in the batch: kinds of notices of its turns, each with what was found."""
    canonical: list[bytes] = field(default_factory=list)
    """The messages of each row as canonical JSON."""
    extra_json: list[bytes] = field(default_factory=list)
    starts: list[int] | None = None
    """Where each row's record begins in the decompressed upload, and how long it is; None where it has no lines."""
    lengths: list[int] | None = None

    def __len__(self) -> int:
        return len(self.counts)


def batch_of_samples(samples: Iterable[Sample]) -> Batch:
    """Make a batch of samples that were read one by one."""
    batch = Batch([], [], [], [], {})
    for position, sample in enumerate(samples):
        batch.roles.extend(message["role"] for message in sample.messages)
        batch.contents.extend(message["content"] for message in sample.messages)
        batch.counts.append(len(sample.messages))
        batch.extras.append(sample.extra)
        if sample.ignored_keys:
            batch.ignored[position] = sample.ignored_keys
        if sample.noted:
            batch.noted[position] = sample.noted
    _write(batch)
    return batch


def batch_of_texts(texts: list[bytes], format: str, mapping: Mapping | None) -> Batch | None:
    """Read JSON texts, each one record, if all of them are clearly valid.

    What the strict parser refuses and the fast one would accept is looked for: a duplicate key (it shows in the number
    of quotation marks, since the fast parser keeps one of two equal keys), a NUL, an integer above 64 bits, too deep
    nesting.

    Args:
        texts: The records as JSON.
        format: Their record format.
        mapping: The columns of their texts, if they have no known format.

    Returns:
        The batch; None if a record may not be valid, so that they have to be read one by one.
    """
    try:
        return _batch_of_texts(texts, format, mapping)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, SystemError):  # the last is what it raises without memory
        return None


def _batch_of_texts(texts: list[bytes], format: str, mapping: Mapping | None) -> Batch | None:
    joined = b"\n".join(texts)
    if b"\\u00" in joined and (b"\\u0000" in joined or b"\\u0022" in joined):
        return None
    records = list(map(orjson.loads, texts))
    marks = joined.count(b'"')
    if format != "messages" and orjson.dumps(records).count(b'"') != marks:
        return None
    turns = _turns(records) if format == "messages" else None
    batch = _columns(records, format, mapping)
    if batch is None:
        return None
    if turns is not None:
        written = [orjson.dumps(turn, option=orjson.OPT_SORT_KEYS) for turn in turns]
        batch.extra_json = list(map(orjson.dumps, batch.extras))
        again = (b"".join(written) + b"".join(batch.extra_json)).count(b'"') + len(texts) * len('""')
        if again != marks:
            return None
        if not batch.ignored:
            batch.canonical = written
    types = set(map(type, chain.from_iterable(map(dict.values, batch.extras))))
    if batch.ignored or not types <= _SCALARS:
        if _LONG_INTEGER in joined.translate(_DIGITS_AS_ZERO):
            return None
        depths = (max(map(methodcaller("count", bracket), texts)) for bracket in (b"[", b"{"))
        if sum(depths) > MAX_DEPTH:
            return None
    if not batch.canonical:
        _write(batch)
    return batch


def _turns(records: list[Any]) -> list[Any] | None:
    try:
        return list(map(itemgetter("messages"), records))
    except (KeyError, TypeError, IndexError):
        return None


def _columns(records: list[Any], format: str, mapping: Mapping | None) -> Batch | None:
    """The batch without its JSON; the records lose what becomes messages, unless the answer is None."""
    if set(map(type, records)) != {dict}:
        return None
    try:
        columns = text_columns(format, mapping)
        if isinstance(columns, TurnColumns):
            return _of_turns(records, columns)
        return _of_pairs(records, columns)
    except (KeyError, TypeError):  # a column or key is missing, or a role is no string
        return None


def _of_turns(records: list[dict[str, Any]], columns: TurnColumns) -> Batch | None:
    role_key, text_key = columns.role_key, columns.text_key
    turns = list(map(itemgetter(columns.turns), records))
    if set(map(type, turns)) != {list}:
        return None
    flat: list[Any] = list(chain.from_iterable(turns))
    if set(map(type, flat)) != {dict}:
        return None
    counts = list(map(len, turns))
    roles: list[Any] = list(map(columns.roles.get, map(itemgetter(role_key), flat)))
    contents = list(map(itemgetter(text_key), flat))
    if None in set(roles) or set(map(type, contents)) != {str} or 0 in counts or max(counts) > MAX_TURNS:
        return None
    ends = list(accumulate(counts))
    if any(roles[end - 1] != "assistant" for end in ends):
        return None
    ignored = {}
    if set(map(len, flat)) != {2}:
        if not WEIGHED_KEYS.isdisjoint(chain.from_iterable(flat)):
            return None
        for position, (start, end) in enumerate(pairwise([0, *ends])):
            keys = tuple(key for turn in flat[start:end] for key in turn if key not in (role_key, text_key))
            if keys:
                ignored[position] = keys
    for record in records:
        del record[columns.turns]
    return Batch(roles, contents, counts, records, ignored)


def _of_pairs(records: list[dict[str, Any]], columns: PairColumns) -> Batch | None:
    prompts, answers = (list(map(itemgetter(column), records)) for column in columns.needed)
    inputs = [record.get(columns.input) for record in records] if columns.input is not None else []
    before = [record.get(columns.system) for record in records] if columns.system is not None else []
    if set(map(type, chain(prompts, answers))) != {str} or not set(map(type, chain(inputs, before))) <= _TEXT_OR_NONE:
        return None
    if any(inputs):
        prompts = [f"{text}\n\n{given}" if given else text for text, given in zip(prompts, inputs, strict=True)]
    for record in records:
        for column in columns.needed + columns.optional:
            record.pop(column, None)
    if not any(before):
        contents = list(chain.from_iterable(zip(prompts, answers, strict=True)))
        return Batch(["user", "assistant"] * len(records), contents, [2] * len(records), records, {})
    batch = Batch([], [], [], records, {})
    for system, prompt, answer in zip(before, prompts, answers, strict=True):
        turns = [("system", system)] if system else []
        turns += [("user", prompt), ("assistant", answer)]
        batch.roles.extend(role for role, _ in turns)
        batch.contents.extend(content for _, content in turns)
        batch.counts.append(len(turns))
    return batch


def _write(batch: Batch) -> None:
    """Fill in the JSON of messages and extra columns."""
    # In the order of canonical JSON, which sorts keys.
    messages = [{"content": content, "role": role} for content, role in zip(batch.contents, batch.roles, strict=True)]
    bounds = pairwise(accumulate(batch.counts, initial=0))
    batch.canonical = [orjson.dumps(messages[start:end]) for start, end in bounds]
    if not batch.extra_json:
        batch.extra_json = list(map(_as_json, batch.extras))


def _as_json(extra: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(extra)
    except TypeError:  # an integer above 64 bits
        return json.dumps(extra, ensure_ascii=False, separators=(",", ":")).encode()
