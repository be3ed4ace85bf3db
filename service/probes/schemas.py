"""Probes as the API shows and takes them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract import ProbeItem
from service.http.fields import Name, Storable
from service.http.health import MAX_PROBE_ITEMS
from service.store.tables import Probe as ProbeTable

Text = Annotated[str, Field(min_length=1, max_length=100_000), Storable]


class Item(ProbeItem):
    """One prompt with an answer that the model must not learn and, where there is one, a good answer."""

    prompt: Text
    unwanted: Text
    reference: Text | None = None


class ProbeCreate(BaseModel):
    """A new probe."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    items: list[Item] = Field(min_length=1, max_length=MAX_PROBE_ITEMS)


class ProbeSummary(BaseModel):
    """A probe without its items."""

    object: Literal["probe"] = "probe"
    id: str
    name: str
    item_count: int
    has_reference: bool = Field(description="Whether every item has a reference answer.")
    created_at: datetime


class Probe(ProbeSummary):
    """A probe. Immutable."""

    items: list[ProbeItem]


def render_probe(probe: ProbeTable) -> Probe:
    """The whole probe as the API shows it."""
    return Probe(
        id=probe.id,
        name=probe.name,
        item_count=len(probe.items),
        has_reference=probe.has_reference,
        created_at=probe.created_at,
        items=[ProbeItem.model_validate(item) for item in probe.items],
    )
