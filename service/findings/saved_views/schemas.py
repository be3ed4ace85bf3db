"""Saved views as the API accepts and shows them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.findings.schemas import ByActor
from service.http.fields import Name, Storable

Query = Annotated[str, Field(max_length=20_000), Storable]
"""The query of a URL that describes a list."""


class SavedViewCreate(BaseModel):
    """A list of findings to save under a name."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    query: Query = Field(
        description="Filters, `sort` and `columns` as the query of an address: `flagged=true&verdict=none&sort=-mu`."
    )


class SavedViewUpdate(BaseModel):
    """Changes to a saved view."""

    model_config = ConfigDict(extra="forbid")
    name: Name | None = Field(default=None, description="null: the name stays.")
    query: Query | None = Field(default=None, description="null: the list stays.")


class SavedView(ByActor):
    """A list of findings under a name, for every audit of the workspace."""

    object: Literal["saved_view"] = "saved_view"
    id: str
    name: str
    query: str = Field(description="Behind `?`, it asks the list of any audit for these findings.")
    created_at: datetime
