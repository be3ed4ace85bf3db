"""Reading one turn of a conversation in any of its formats: its role, its text, and the keys that no audit uses."""

import contextlib
import json
from dataclasses import dataclass
from typing import Any

from service.contract.notices import ZERO_WEIGHTS
from service.datasets.notice_kinds import TOOL_CALLS
from service.datasets.parsing.strict_json import RecordError, parse_record

ROLES = ("system", "user", "assistant", "tool")
"""The roles of turns, in the order that columns hold as numbers."""

ROLE_NAMES = {role: role for role in ROLES} | {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
    "observation": "tool",
}
"""The role for each name of a role or sender in the formats. Capital letters make no difference."""

KEY_PAIRS = (("role", "content"), ("from", "value"))
"""A turn's keys for role and text."""

_SHOWN = {"role": ", ".join(ROLES), "from": "human, gpt, system, tool"}
"""The names of roles that errors suggest, by the key of the turn."""

_CALLS = ("tool_calls", "function_call")
_LOSS = ("weight", "train", "training")

WEIGHED_KEYS = frozenset((*_CALLS, *_LOSS))
"""Keys of a turn whose values matter, beside role and text."""

_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn in canonical form."""

    role: str
    content: str
    ignored: tuple[str, ...]
    """Keys that no audit uses."""
    noted: tuple[tuple[str, str], ...]
    """Kinds of notices, each with what was found."""


def read_turn(turn: Any, where: str, keys: tuple[str, str]) -> Turn:
    """Read a turn.

    Args:
        turn: The JSON value.
        where: Its place in the record, for errors.
        keys: The keys for role and text that it should have; those of the other format are accepted too.

    Raises:
        RecordError: It has no known format.
    """
    if not isinstance(turn, dict):
        raise RecordError(f"'{where}' must be an object, not {type_name(turn)}")
    if not turn.keys() & set(keys):
        keys = next((pair for pair in KEY_PAIRS if pair[0] in turn), keys)
    role_key, text_key = keys
    calls = [text for key in _CALLS if turn.get(key) for text in _calls(turn[key])]
    for key in keys:
        if key not in turn and not (calls and key == text_key):
            raise RecordError(f"'{where}' has no '{key}'")
    role = _string(turn[role_key], f"{where}.{role_key}").lower()
    if role not in ROLE_NAMES:
        raise RecordError(f"'{where}.{role_key}' must be one of {_SHOWN[role_key]}")
    text = turn.get(text_key)
    if isinstance(text, list):
        calls += [_call(part) for part in text if _is_call(part)]
        parts = enumerate(text)
        text = "".join(_part(part, f"{where}.{text_key}[{number}]") for number, part in parts if not _is_call(part))
    if text is None and calls:
        text = ""
    spoken = _string(text, f"{where}.{text_key}")
    noted = [(TOOL_CALLS, "calls")] * len(calls)
    if ROLE_NAMES[role] == "assistant":
        noted += [(ZERO_WEIGHTS, key) for key in _LOSS if turn.get(key) in (0, False) and turn.get(key) is not None]
    return Turn(
        ROLE_NAMES[role],
        "\n".join([spoken, *calls] if spoken else calls),
        tuple(key for key in turn if key not in keys and key not in _CALLS),
        tuple(noted),
    )


def type_name(value: Any) -> str:
    """Return the type of a JSON value as errors name it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"'{where}' must be a string, not {type_name(value)}")
    return value


def _is_call(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "tool_use"


def _part(part: Any, where: str) -> str:
    """Return the text of one part of a turn whose text is a list."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") == "tool_result":
        result = part.get("content", "")
        if isinstance(result, list):
            return "".join(_part(inner, f"{where}.content[{number}]") for number, inner in enumerate(result))
        return _string(result, f"{where}.content")
    if not isinstance(part, dict) or part.get("type", "text") not in _TEXT_PARTS:
        raise RecordError(f"'{where}' is not a part of type text, and an audit reads only text; leave the record out")
    return _string(part.get("text"), f"{where}.text")


def _calls(value: Any) -> list[str]:
    """Return the calls of tools as JSON, one text each: a model that is trained on them writes such text."""
    return [_call(call) for call in (value if isinstance(value, list) else [value])]


def _call(call: Any) -> str:
    if isinstance(call, str):
        return call
    said = call.get("function", call) if isinstance(call, dict) else call
    if isinstance(said, dict) and isinstance(said.get("name"), str):
        arguments = said.get("arguments", said.get("input"))
        if isinstance(arguments, str):
            with contextlib.suppress(RecordError):
                arguments = parse_record(arguments.encode())
        said = {"name": said["name"], "arguments": arguments}
    return json.dumps(said, ensure_ascii=False)
