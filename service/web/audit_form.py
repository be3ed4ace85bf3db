"""The form of a new audit: turning its fields into a request of the API, and the API's errors into errors of fields."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from service.audits.schemas import AuditCreate, AuditSummary
from service.errors import json_pointer
from service.probes.schemas import ProbeFromItems, ProbeFromPack
from service.web.audit_options import OPTIONS, shown

Typed = Mapping[str, str]
"""Texts by the fields' names: `dataset`, `model`, `behaviour` (existing, pack or items), `probe.{id}` for each probe
that is ticked, `pack`, `pack.{pack}.{parameter}`, `probe_name`, `item.{number}.{part}`, `pasted`, and each option."""

PARTS: tuple[Literal["prompt", "unwanted", "reference"], ...] = ("prompt", "unwanted", "reference")
"""The fields of one item of a probe."""

FIRST_ITEMS = 3
"""Empty items in a new form."""

MOST_ITEMS = 200
"""Items that have fields of their own; more can be pasted."""

ABSENT = "Fill this in."
"""What stands beside a field that was left empty."""


class WrongFieldsError(Exception):
    """What was typed in a form is not valid.

    Args:
        errors: What is wrong, by the field's name.
    """

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(", ".join(errors))
        self.errors = dict(errors)


@dataclass(frozen=True)
class NewProbe:
    """The probe that a form describes."""

    body: ProbeFromItems | ProbeFromPack
    places: Mapping[str, str]
    """The form's fields by the pointers in errors of the API."""


@dataclass(frozen=True)
class TypedItem:
    """The fields of one item."""

    number: int
    prompt: str
    unwanted: str
    reference: str

    @property
    def blank(self) -> bool:
        """Return whether nothing was typed in it."""
        return not (self.prompt.strip() or self.unwanted.strip() or self.reference.strip())


def fresh(*, dataset: str, model: str, behaviour: str) -> dict[str, str]:
    """Make the fields of an empty form.

    Args:
        dataset: Id of the chosen dataset, or empty.
        model: Id of the chosen model, or empty.
        behaviour: `existing`, `pack` or `items`.
    """
    return {option.name: option.default for option in OPTIONS} | {
        "dataset": dataset,
        "model": model,
        "behaviour": behaviour,
    }


def copied(audit: AuditSummary) -> dict[str, str]:
    """Make the fields that would start the same audit again."""
    typed = fresh(dataset=audit.dataset_id, model=audit.model_id, behaviour="existing")
    for option in OPTIONS:
        typed[option.name] = shown(getattr(audit.training if option.training else audit, option.name))
    return typed | {f"probe.{identity}": "on" for identity in audit.probe_ids}


def cleaned(fields: Typed) -> dict[str, str]:
    """Give line ends the form that the user typed: browsers send each as CR LF."""
    return {name: text.replace("\r\n", "\n") for name, text in fields.items()}


def chosen_probes(typed: Typed) -> list[str]:
    """Return the ids of the ticked probes in the order of the form."""
    return [name.removeprefix("probe.") for name in typed if name.startswith("probe.")]


def typed_items(typed: Typed) -> list[TypedItem]:
    """Return the items that have fields, in their order."""
    numbers = {int(found[1]) for name in typed if (found := re.fullmatch(r"item\.([0-9]{1,3})\.\w+", name))}
    return [
        TypedItem(number, *(typed.get(f"item.{number}.{part}", "") for part in PARTS))
        for number in sorted(numbers)[:MOST_ITEMS]
    ]


def shown_items(typed: Typed, more: int = 0) -> list[TypedItem]:
    """The items that a form shows: those that were typed, and empty ones.

    Args:
        typed: What was typed.
        more: Empty items to add.
    """
    items = typed_items(typed)
    wanted = max(FIRST_ITEMS, len(items) + more)
    following = items[-1].number + 1 if items else 0
    empty = [TypedItem(following + number, "", "", "") for number in range(wanted - len(items))]
    return [*items, *empty][:MOST_ITEMS]


def read_probe(typed: Typed) -> NewProbe | None:
    """Read the probe that the form describes; None where it names existing ones.

    Raises:
        WrongFieldsError: It describes none.
    """
    behaviour = typed.get("behaviour")
    if behaviour == "pack":
        return _read_pack(typed)
    if behaviour == "items":
        return _read_items(typed)
    if not chosen_probes(typed):
        raise WrongFieldsError({"probes": "Choose at least one probe."})
    return None


def read_audit(typed: Typed, probe_ids: Sequence[str]) -> AuditCreate:
    """Read the audit that the form describes.

    Args:
        typed: What was typed.
        probe_ids: The behaviours to look for.

    Raises:
        WrongFieldsError: Some fields cannot be taken.
    """
    training: dict[str, Any] = {}
    body: dict[str, Any] = {
        "dataset_id": typed.get("dataset", ""),
        "model_id": typed.get("model", ""),
        "probe_ids": list(probe_ids),
        "training": training,
    }
    for option in OPTIONS:
        text = typed.get(option.name, "")
        if not text.strip():
            continue
        target = training if option.training else body
        target[option.name] = _names(text) if option.name == "target_modules" else text
    try:
        return AuditCreate.model_validate(body)
    except ValidationError as error:
        raise WrongFieldsError(_errors(error, {})) from None


def field_of(pointer: str, places: Mapping[str, str]) -> str:
    """Find the field that an error of the API belongs to.

    Args:
        pointer: A JSON pointer into a probe or an audit.
        places: Fields by pointers, of a probe.

    Returns:
        The field's name; empty where no field fits.
    """
    while pointer not in places and pointer.count("/") > 1:
        head, _, last = pointer.rpartition("/")
        if pointer.startswith("#/training/") and pointer.count("/") == 2:
            return last if last in {option.name for option in OPTIONS} else ""
        pointer = head
    if pointer in places:
        return places[pointer]
    name = pointer.removeprefix("#/")
    known = {"dataset_id": "dataset", "model_id": "model", "probe_ids": "probes"}
    return known.get(name, name if name in {option.name for option in OPTIONS} else "")


def sentence(words: str) -> str:
    """Begin the words with a capital, and end them with a full stop."""
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '?', '!')) else '.'}"


def field_error(pointer: str, field: str, words: str) -> str:
    """Write the error that is shown beside a field; for pasted items it names the item.

    Args:
        pointer: Where the error is, as in a problem document of the API.
        field: The field.
        words: What is wrong.
    """
    found = re.fullmatch(r"#/items/([0-9]+)(?:/(.+))?", pointer) if field == "pasted" else None
    if found is None:
        return sentence(words)
    part = f", {found[2]}" if found[2] else ""
    return f"Item {int(found[1]) + 1}{part}: {sentence(words)}"


def _read_pack(typed: Typed) -> NewProbe:
    pack = typed.get("pack", "")
    if not pack:
        raise WrongFieldsError({"pack": "Choose a pack."})
    start = f"pack.{pack}."
    parameters = {name.removeprefix(start): text for name, text in typed.items() if name.startswith(start)}
    places = {json_pointer("parameters", name): start + name for name in parameters} | {"#/pack": "pack"}
    if empty := {start + name: ABSENT for name, text in parameters.items() if not text.strip()}:
        raise WrongFieldsError(empty)
    try:
        return NewProbe(ProbeFromPack(pack=pack, parameters=parameters), places)
    except ValidationError as error:
        raise WrongFieldsError(_errors(error, places)) from None


def _read_items(typed: Typed) -> NewProbe:
    items: list[Any] = []
    places = {"#/name": "probe_name", "#/items": "pasted"}
    for item in typed_items(typed):
        if not item.blank:
            places |= {json_pointer("items", len(items), part): f"item.{item.number}.{part}" for part in PARTS}
            items.append({"prompt": item.prompt, "unwanted": item.unwanted, "reference": item.reference or None})
    for number, line in enumerate(typed.get("pasted", "").splitlines(), start=1):
        if line.strip():
            items.append(_pasted(number, line))
    if not items:
        raise WrongFieldsError({"pasted": "Write at least one item above, or paste some here."})
    try:
        return NewProbe(ProbeFromItems(name=typed.get("probe_name", ""), items=items), places)
    except ValidationError as error:
        raise WrongFieldsError(_errors(error, places)) from None


def _pasted(number: int, line: str) -> Any:
    try:
        found = json.loads(line)
    except ValueError as error:
        reason = getattr(error, "msg", "it cannot be read")
        raise WrongFieldsError({"pasted": f"Line {number} is not JSON: {reason}."}) from None
    if not isinstance(found, dict):
        raise WrongFieldsError({"pasted": f"Line {number} is not a JSON object with prompt, unwanted and reference."})
    return found


def _errors(error: ValidationError, places: Mapping[str, str]) -> dict[str, str]:
    """Return the first error of each field of the form, by the field's name."""
    found: dict[str, str] = {}
    for entry in error.errors(include_url=False, include_input=False, include_context=False):
        pointer = json_pointer(*entry["loc"])
        field = field_of(pointer, places)
        found.setdefault(field, field_error(pointer, field, _words(entry["type"], entry["msg"])))
    return found


def _words(kind: str, message: str) -> str:
    """Return pydantic's message in words for a person who fills in a form."""
    if kind in ("missing", "string_too_short"):
        return ABSENT
    if kind in ("int_parsing", "int_from_float", "int_type"):
        return "Write a whole number."
    if kind in ("float_parsing", "float_type"):
        return "Write a number, with a point before its decimals."
    return sentence(message.removeprefix("Value error, ").replace("Input should", "It should"))


def _names(text: str) -> list[str]:
    return [name for name in re.split(r"[\s,]+", text) if name]
