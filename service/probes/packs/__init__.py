"""Built-in probe packs: common behaviours, each a JSON file in this folder. docs/probes.md says when to use one.

A pack's version rises with every change of its items, and a probe made from it records the version: results of
different versions are not comparable.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract.spec import ProbeItem


class Parameter(BaseModel):
    """A placeholder in a pack's texts."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[a-z][a-z_]*$", description="In the texts as `{name}`.")
    description: str
    example: str


class PackItem(ProbeItem):
    """A probe's item with placeholders; every item of a pack has a good answer."""

    reference: str = Field(min_length=1, max_length=100_000)


class ProbePackSummary(BaseModel):
    """A built-in pack without its items."""

    model_config = ConfigDict(extra="forbid")
    object: Literal["probe_pack"] = "probe_pack"
    name: str = Field(pattern=r"^[a-z][a-z_]*$")
    version: int = Field(ge=1, description="Rises with every change of the items.")
    title: str
    description: str = Field(description="Which behaviour it finds, and which it does not.")
    parameters: list[Parameter] = Field(description="What `parameters` of POST /v1/probes must give, and nothing else.")
    item_count: int


class ProbePack(ProbePackSummary):
    """A built-in pack."""

    items: list[PackItem]


@cache
def load_packs() -> Mapping[str, ProbePack]:
    """Return every pack by name, in the order of names."""
    found = {}
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".json"):
            content = json.loads(file.read_bytes())
            pack = ProbePack(item_count=len(content["items"]), **content)
            found[pack.name] = pack
    return found


def fill(pack: ProbePack, values: Mapping[str, str]) -> list[ProbeItem]:
    """Return the pack's items with values in place of the placeholders.

    Args:
        pack: The pack.
        values: A value for each of the pack's parameters.
    """
    if not pack.parameters:
        return [ProbeItem.model_validate(item.model_dump()) for item in pack.items]
    # In one pass: a value that looks like a placeholder is not replaced itself.
    names = "|".join(parameter.name for parameter in pack.parameters)
    placeholder = re.compile(r"\{(" + names + r")\}")

    def filled(text: str) -> str:
        return placeholder.sub(lambda match: values[match[1]], text)

    return [
        ProbeItem(prompt=filled(item.prompt), unwanted=filled(item.unwanted), reference=filled(item.reference))
        for item in pack.items
    ]


def parameter_error(value: str) -> str | None:
    """Return why a value is not valid for a parameter; None if it is."""
    if not 1 <= len(value) <= 80:
        return "use 1 to 80 characters"
    if value != value.strip() or not value.isprintable():
        return "use one line of visible text without spaces around it"
    return None
