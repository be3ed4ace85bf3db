"""Strict JSON: what two programs could read differently, or Postgres cannot store, is refused."""

import json
from typing import Any, NoReturn

import orjson

NUL_REASON = "holds a NUL character (\\u0000), which the database cannot store; remove it"
"""What is said of a record with a NUL character, in whatever format it comes."""

MAX_DEPTH = 64
"""Levels of nested arrays and objects in one record."""


class RecordError(ValueError):
    """The reason why a line is no valid record. The text names keys and positions, never a value."""


def parse_record(line: bytes) -> Any:
    """Parse one line, with numbers as exact as Python has them.

    Args:
        line: The JSON text.

    Returns:
        Its value.

    Raises:
        RecordError: It is not JSON or not UTF-8, or has NaN or an infinity, a duplicate key, a NUL, a lone surrogate,
            or more than MAX_DEPTH levels.
        MemoryError: The value needs more memory than the process may use.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RecordError(_why_refused(line, error)) from None
    except SystemError:  # what orjson raises when it gets no memory
        raise MemoryError from None
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise RecordError(f"nested more than {MAX_DEPTH} levels deep")
    del value
    # A second parser, since the first keeps the last of two equal keys and rounds integers above 64 bits.
    try:
        value = _EXACT.decode(line.decode())
    except RecordError:
        raise
    except ValueError:
        raise RecordError("holds an integer of more than 4300 digits") from None
    if b"\\u0000" in line and holds_nul(value):
        raise RecordError(NUL_REASON)
    return value


def shown_key(key: str) -> str:
    """Return a key as an error may show it: quoted, at most 60 characters, nothing unprintable."""
    text = key if len(key) <= 60 else key[:60] + "..."
    return "'" + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text) + "'"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RecordError(f"the key {shown_key(key)} occurs twice in one object")
            seen.add(key)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise RecordError(f"holds {name}, which is not JSON")


_EXACT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _why_refused(line: bytes, error: orjson.JSONDecodeError) -> str:
    if b"\0" in line:
        return "holds a NUL byte, which is not JSON and which the database cannot store; remove it"
    try:
        text = line.decode()
    except UnicodeDecodeError as wrong:
        return f"not UTF-8 at byte {wrong.start + 1} of the line; save the file as UTF-8"
    if "surrogate" in error.msg:
        return "holds a lone surrogate (an escape from \\ud800 to \\udfff without its pair), which is not text"
    if "depth" in error.msg:
        return f"nested more than {MAX_DEPTH} levels deep"
    if "infinity" in error.msg:
        return "holds a number too large for a double"
    try:
        _EXACT.decode(text)
    except RecordError as known:
        return str(known)
    except (ValueError, RecursionError):
        pass
    return f"not valid JSON: {error.msg} at column {error.colno}{_hint(text, error.pos)}"


def _hint(text: str, place: int) -> str:
    """Return what may have gone wrong where a text stops being JSON."""
    rest = text[place:].lstrip()
    if rest.startswith(("'", "None", "True", "False")):
        return "; it looks like Python's own notation: write records with json.dumps"
    if rest.strip() == ",":
        return "; a comma ends the line: remove it, since lines of JSONL have none between them"
    if rest.startswith("{"):
        return (
            "; several records are on one line: put each on a line of its own, and send files with "
            "curl --data-binary, since -d removes line ends"
        )
    return ""


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Return whether a value is deeper than `limit`, level by level, so that no input can exhaust the stack."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        children = (child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent))
        level = [child for child in children if isinstance(child, dict | list)]
    return bool(level)


def holds_nul(value: Any) -> bool:
    """Return whether any text or key of a JSON value has a NUL character."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if "\0" in item:
                return True
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return False
