"""Probes as the API accepts and shows them."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from sqlalchemy import Row

from service.contract.spec import ProbeItem
from service.http.fields import Name, Storable
from service.store.tables import Probe as ProbeTable

MAX_PROBE_ITEMS = 1000
"""Most items of a probe."""


def _says_something(text: str) -> str:
    if not re.search(r"\S", text):
        raise ValueError("holds nothing but blanks, which is no behaviour")
    return text


Text = Annotated[
    str,
    Field(min_length=1, max_length=100_000, json_schema_extra={"pattern": r"\S"}),
    Storable,
    AfterValidator(_says_something),
]


class Item(ProbeItem):
    """One prompt with an answer that the model must not learn and, if there is one, a good answer."""

    prompt: Text
    unwanted: Text
    reference: Text | None = None


class ProbeFromItems(BaseModel):
    """A new probe with items of one's own."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    items: list[Item] = Field(min_length=1, max_length=MAX_PROBE_ITEMS)


class ProbeFromPack(BaseModel):
    """A new probe from a built-in pack."""

    model_config = ConfigDict(extra="forbid")
    name: Name | None = Field(default=None, description="By default the pack's name and the parameters.")
    pack: Annotated[str, Field(min_length=1, max_length=100), Storable] = Field(
        description="A name from GET /v1/probe-packs."
    )
    parameters: dict[str, str] = Field(default={}, max_length=10, description="A value for each of the pack's.")


def _kind(body: Any) -> str | None:
    if not isinstance(body, dict):
        return None
    return "from_pack" if "pack" in body else "from_items"


ProbeCreate = Annotated[
    Annotated[ProbeFromItems, Tag("from_items")] | Annotated[ProbeFromPack, Tag("from_pack")], Discriminator(_kind)
]


class PackOrigin(BaseModel):
    """The built-in pack that a probe was made from."""

    name: str
    version: int
    parameters: dict[str, str]


class ProbeSummary(BaseModel):
    """A probe without its items."""

    object: Literal["probe"] = "probe"
    id: str
    name: str
    item_count: int
    has_reference: bool = Field(description="Whether every item has a reference answer.")
    pack: PackOrigin | None = Field(description="The built-in pack that it was made from; null: its own items.")
    created_at: datetime


class Probe(ProbeSummary):
    """A probe. Immutable."""

    items: list[ProbeItem]


def render_probe_summary(row: Row[Any]) -> ProbeSummary:
    """Return a probe without its items as the API shows it, from a row of `list_probes`."""
    return ProbeSummary(**row._mapping)


def render_probe(probe: ProbeTable) -> Probe:
    """Return a probe with its items as the API shows it."""
    return Probe(
        id=probe.id,
        name=probe.name,
        item_count=len(probe.items),
        has_reference=probe.has_reference,
        pack=None if probe.pack is None else PackOrigin.model_validate(probe.pack),
        created_at=probe.created_at,
        items=[ProbeItem.model_validate(item) for item in probe.items],
    )
