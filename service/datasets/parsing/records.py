"""The record formats: recognising one by its keys, and reading a record as messages and extra columns."""

from dataclasses import dataclass, replace
from typing import Any

from service.contract.notices import ZERO_WEIGHTS
from service.datasets.parsing.strict_json import RecordError, parse_record, shown_key
from service.datasets.parsing.turns import KEY_PAIRS, ROLE_NAMES, Turn, read_turn, type_name

FORMATS = {
    "messages": '{"messages": [{"role", "content"}, ...]}',
    "alpaca": '{"instruction", "input", "output"}',
    "sharegpt": '{"conversations": [{"from", "value"}, ...]}',
    "prompt_completion": '{"prompt", "completion"}, each a text or a list of turns',
}
"""Record formats by name, each with its shape. A record with keys of several is the first that fits, in this order."""

MAPPED = "mapped"
"""The format of records that are read by a Mapping."""

TURN_COLUMNS = {
    "messages": ("messages", *KEY_PAIRS[0], ROLE_NAMES),
    "sharegpt": ("conversations", *KEY_PAIRS[1], ROLE_NAMES),
}
"""Of the formats that hold a list of turns: the column, a turn's keys for role and text, and what each role is."""

MAX_KEY_LENGTH = 256
"""Characters of a column's name."""

MAX_COLUMNS = 1000
"""Different extra columns of one dataset."""

MAX_TURNS = 1000
"""Of one record: a chat template renders the whole beginning again for every answer, so that time grows with the
square."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """Which columns of records of no known format hold the prompt, the answer and, if any, the system's turn."""

    prompt: str
    answer: str
    system: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that it names."""
        return (self.prompt, self.answer) if self.system is None else (self.prompt, self.answer, self.system)


@dataclass(frozen=True, slots=True)
class Sample:
    """A record in canonical form: messages [{role, content}], other columns, ignored keys of turns."""

    messages: list[dict[str, str]]
    extra: dict[str, Any]
    ignored_keys: tuple[str, ...] = ()
    noted: tuple[tuple[str, str], ...] = ()
    """Kinds of notices of its turns, each with what was found."""


def recognise(record: Any) -> str | None:
    """The format whose keys the record has, or None."""
    if not isinstance(record, dict):
        return None
    if "messages" in record:
        return "messages"
    if "instruction" in record and "output" in record:
        return "alpaca"
    if "conversations" in record:
        return "sharegpt"
    if "prompt" in record and "completion" in record:
        return "prompt_completion"
    return None


def describe(record: Any) -> str:
    """What a record that fits no format is, by its keys and never by its values."""
    if isinstance(record, dict):
        keys = list(record)
        shown = ", ".join(shown_key(key) for key in keys[:20])
        return (
            f"an object with the keys {shown}{', ...' if len(keys) > 20 else ''}" if keys else "an object without keys"
        )
    return type_name(record)


def required_columns(format: str, mapping: Mapping | None) -> tuple[str, ...]:
    """Columns that a table of this format must have."""
    if mapping is not None:
        return mapping.columns
    if format in TURN_COLUMNS:
        return (TURN_COLUMNS[format][0],)
    return ("instruction", "output") if format == "alpaca" else ("prompt", "completion")


def message_columns(format: str, mapping: Mapping | None) -> tuple[str, ...]:
    """Columns that become messages in this format, those that may be missing among them."""
    optional = ("input",) if format == "alpaca" and mapping is None else ()
    return (*required_columns(format, mapping), *optional)


def read_record(record: Any, format: str, mapping: Mapping | None = None) -> Sample:
    """A record of the named format, which is `mapped` where there is a mapping.

    Raises RecordError where it is of another form.
    """
    if not isinstance(record, dict):
        raise RecordError(f"a record must be a JSON object, this is {type_name(record)}")
    if mapping is not None:
        sample = _mapped(record, mapping)
    elif format in TURN_COLUMNS:
        column, *keys, _ = TURN_COLUMNS[format]
        sample = _turns(record, column, (keys[0], keys[1]))
    else:
        sample = _alpaca(record) if format == "alpaca" else _prompt_completion(record)
    if not any(message["role"] == "assistant" for message in sample.messages):
        raise RecordError("has no assistant turn, so there is nothing to learn from it")
    if sample.messages[-1]["role"] != "assistant":
        raise RecordError("the last turn must be the assistant's")
    for key in sample.extra:
        if len(key) > MAX_KEY_LENGTH:
            raise RecordError(f"the column name {shown_key(key)} is longer than {MAX_KEY_LENGTH} characters")
    return sample


def _turns(record: dict[str, Any], column: str, keys: tuple[str, str]) -> Sample:
    value = _required(record, column)
    if isinstance(value, str):
        # A table of texts has no other form for a list.
        try:
            value = parse_record(value.encode())
        except RecordError as error:
            raise RecordError(f"{shown_key(column)} is no JSON list of turns: {error}") from None
    return _conversation(record, _read_turns(value, column, keys), (column,))


def _read_turns(value: Any, column: str, keys: tuple[str, str]) -> list[Turn]:
    if not isinstance(value, list):
        raise RecordError(f"'{column}' must be an array, not {type_name(value)}")
    _check_count(len(value))
    return [read_turn(turn, f"{column}[{number}]", keys) for number, turn in enumerate(value)]


def _check_count(turns: int) -> None:
    if turns > MAX_TURNS:
        raise RecordError(f"has {turns} turns, and a record can have {MAX_TURNS}; split the conversation into several")


def _conversation(record: dict[str, Any], turns: list[Turn], columns: tuple[str, ...]) -> Sample:
    _check_count(len(turns))
    return Sample(
        [{"role": turn.role, "content": turn.content} for turn in turns],
        {key: value for key, value in record.items() if key not in columns},
        tuple(key for turn in turns for key in turn.ignored),
        tuple(note for turn in turns for note in turn.noted),
    )


def _alpaca(record: dict[str, Any]) -> Sample:
    instruction = _string(record, "instruction")
    given = record.get("input")
    if given is not None and not isinstance(given, str):
        raise RecordError(f"'input' must be a string, not {type_name(given)}")
    prompt = f"{instruction}\n\n{given}" if given else instruction
    return _pair(record, prompt, _string(record, "output"), ("instruction", "input", "output"))


def _prompt_completion(record: dict[str, Any]) -> Sample:
    columns = ("prompt", "completion")
    prompt, completion = (_required(record, column) for column in columns)
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return _pair(record, _string(record, "prompt"), _string(record, "completion"), columns)
    asked, answered = _side(prompt, "prompt", "user"), _side(completion, "completion", "assistant")
    # What writes this form trains on the completion alone.
    asked = [
        replace(turn, noted=(*turn.noted, (ZERO_WEIGHTS, "prompt"))) if turn.role == "assistant" else turn
        for turn in asked
    ]
    return _conversation(record, asked + answered, columns)


def _side(value: Any, column: str, role: str) -> list[Turn]:
    """A prompt or a completion that may be one text or a list of turns."""
    if isinstance(value, str):
        return [Turn(role, value, (), ())]
    if isinstance(value, list) and any(isinstance(item, str) for item in value):
        raise RecordError(
            f"'{column}' is a list of texts; write one record for each, as DataFrame.to_json does with "
            "orient='records' and lines=True"
        )
    return _read_turns(value, column, KEY_PAIRS[0])


def _pair(record: dict[str, Any], prompt: str, answer: str, columns: tuple[str, ...]) -> Sample:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return Sample(messages, {key: value for key, value in record.items() if key not in columns})


def _mapped(record: dict[str, Any], mapping: Mapping) -> Sample:
    messages = []
    if mapping.system is not None and record.get(mapping.system) not in (None, ""):
        messages.append({"role": "system", "content": _string(record, mapping.system)})
    messages.append({"role": "user", "content": _string(record, mapping.prompt)})
    messages.append({"role": "assistant", "content": _string(record, mapping.answer)})
    return Sample(messages, {key: value for key, value in record.items() if key not in mapping.columns})


def _required(record: dict[str, Any], key: str) -> Any:
    if key not in record:
        raise RecordError(f"has no {shown_key(key)}")
    return record[key]


def _string(record: dict[str, Any], key: str) -> str:
    value = _required(record, key)
    if not isinstance(value, str):
        raise RecordError(f"{shown_key(key)} must be a string, not {type_name(value)}")
    return value
