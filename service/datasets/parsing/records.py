"""The record formats: one table of them, recognising one by its columns, and reading a record as messages."""

from dataclasses import dataclass, replace
from typing import Any

from service.contract.notices import ZERO_WEIGHTS
from service.datasets.parsing.strict_json import RecordError, parse_record, shown_key
from service.datasets.parsing.turns import KEY_PAIRS, ROLE_NAMES, Turn, read_turn, type_name


@dataclass(frozen=True, slots=True)
class TurnColumns:
    """The column of a format whose records hold a list of turns."""

    turns: str
    role_key: str
    """A turn's key for its role."""
    text_key: str
    """A turn's key for its text."""
    roles: dict[str, str]
    """The role for each name that turns may give theirs."""

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that every record must have."""
        return (self.turns,)

    @property
    def optional(self) -> tuple[str, ...]:
        """Further columns that become messages."""
        return ()


@dataclass(frozen=True, slots=True)
class PairColumns:
    """The columns of a format whose records hold a prompt and an answer."""

    prompt: str
    answer: str
    input: str | None = None
    """A text that is added to the prompt, after a blank line."""
    system: str | None = None
    """The system's turn."""

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that every record must have."""
        return (self.prompt, self.answer)

    @property
    def optional(self) -> tuple[str, ...]:
        """Further columns that become messages."""
        return tuple(column for column in (self.input, self.system) if column is not None)


@dataclass(frozen=True, slots=True)
class RecordFormat:
    """A record format that is recognised by its columns."""

    shape: str
    """How errors show it."""
    columns: TurnColumns | PairColumns


FORMATS = {
    "messages": RecordFormat(
        '{"messages": [{"role", "content"}, ...]}', TurnColumns("messages", *KEY_PAIRS[0], ROLE_NAMES)
    ),
    "alpaca": RecordFormat('{"instruction", "input", "output"}', PairColumns("instruction", "output", input="input")),
    "sharegpt": RecordFormat(
        '{"conversations": [{"from", "value"}, ...]}', TurnColumns("conversations", *KEY_PAIRS[1], ROLE_NAMES)
    ),
    "prompt_completion": RecordFormat(
        '{"prompt", "completion"}, each a text or a list of turns', PairColumns("prompt", "completion")
    ),
}
"""Record formats by name. A record with the columns of several is of the first that fits, in this order."""

MAPPED = "mapped"
"""The format of records that are read by a Mapping."""

MAX_KEY_LENGTH = 256
"""Characters of a column's name."""

MAX_COLUMNS = 1000
"""The most extra columns of one dataset."""

MAX_TURNS = 1000
"""The most turns of one record: a chat template renders the whole beginning again for every answer, so that the time
grows with the square."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """The columns of records in no known format that hold the prompt, the answer and, if any, the system's turn."""

    prompt: str
    answer: str
    system: str | None = None
    """The column of the system's turn; None: there is none."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        return (self.prompt, self.answer) if self.system is None else (self.prompt, self.answer, self.system)


@dataclass(frozen=True, slots=True)
class Sample:
    """A record in canonical format: messages [{role, content}], other columns, ignored keys of turns."""

    messages: list[dict[str, str]]
    extra: dict[str, Any]
    ignored_keys: tuple[str, ...] = ()
    noted: tuple[tuple[str, str], ...] = ()
    """Kinds of notices of its turns, each with what was found."""


def recognise(record: Any) -> str | None:
    """Return the format whose columns the record has, or None."""
    if not isinstance(record, dict):
        return None
    return next((name for name, known in FORMATS.items() if all(key in record for key in known.columns.needed)), None)


def text_columns(format: str, mapping: "Mapping | None") -> TurnColumns | PairColumns:
    """Find the columns that become messages.

    Args:
        format: A name in FORMATS, or MAPPED.
        mapping: The columns of records in no known format, which count before `format`.
    """
    if mapping is not None:
        return PairColumns(mapping.prompt, mapping.answer, system=mapping.system)
    return FORMATS[format].columns


def describe(record: Any) -> str:
    """Describe a record that fits no format, by its keys and never by its values."""
    if isinstance(record, dict):
        keys = list(record)
        shown = ", ".join(shown_key(key) for key in keys[:20])
        return (
            f"an object with the keys {shown}{', ...' if len(keys) > 20 else ''}" if keys else "an object without keys"
        )
    return type_name(record)


def required_columns(format: str, mapping: "Mapping | None") -> tuple[str, ...]:
    """Return the columns that a table must have; of a mapping all that it names.

    Args:
        format: A name in FORMATS, or MAPPED.
        mapping: The columns of records in no known format.
    """
    return FORMATS[format].columns.needed if mapping is None else mapping.columns


def read_record(record: Any, format: str, mapping: Mapping | None = None) -> Sample:
    """Read a record as messages and extra columns.

    Args:
        record: The JSON value.
        format: A name in FORMATS, or MAPPED.
        mapping: The columns of its texts, if it has no known format.

    Raises:
        RecordError: The record has another format.
    """
    if not isinstance(record, dict):
        raise RecordError(f"a record must be a JSON object, this is {type_name(record)}")
    columns = text_columns(format, mapping)
    if isinstance(columns, TurnColumns):
        sample = _turns(record, columns.turns, (columns.role_key, columns.text_key))
    else:
        sample = (
            _pair(record, columns) if mapping is not None or format == "alpaca" else _prompt_completion(record, columns)
        )
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
        # In a table of texts a list can only be JSON.
        try:
            value = parse_record(value.encode())
        except RecordError as error:
            raise RecordError(f"{shown_key(column)} is not a JSON list of turns: {error}") from None
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


def _prompt_completion(record: dict[str, Any], columns: PairColumns) -> Sample:
    prompt, completion = (_required(record, column) for column in columns.needed)
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return _pair(record, columns)
    asked, answered = _side(prompt, "prompt", "user"), _side(completion, "completion", "assistant")
    # Trainers that read this format train on the completion alone.
    asked = [
        replace(turn, noted=(*turn.noted, (ZERO_WEIGHTS, "prompt"))) if turn.role == "assistant" else turn
        for turn in asked
    ]
    return _conversation(record, asked + answered, columns.needed)


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


def _pair(record: dict[str, Any], columns: PairColumns) -> Sample:
    messages = []
    if columns.system is not None and record.get(columns.system) not in (None, ""):
        messages.append({"role": "system", "content": _string(record, columns.system)})
    prompt = _string(record, columns.prompt)
    given = None if columns.input is None else record.get(columns.input)
    if given is not None and not isinstance(given, str):
        raise RecordError(f"{shown_key(str(columns.input))} must be a string, not {type_name(given)}")
    messages.append({"role": "user", "content": f"{prompt}\n\n{given}" if given else prompt})
    messages.append({"role": "assistant", "content": _string(record, columns.answer)})
    texts = columns.needed + columns.optional
    return Sample(messages, {key: value for key, value in record.items() if key not in texts})


def _required(record: dict[str, Any], key: str) -> Any:
    if key not in record:
        raise RecordError(f"has no {shown_key(key)}")
    return record[key]


def _string(record: dict[str, Any], key: str) -> str:
    value = _required(record, key)
    if not isinstance(value, str):
        raise RecordError(f"{shown_key(key)} must be a string, not {type_name(value)}")
    return value
