"""Base models as the API accepts and shows them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract.spec import ModelSource
from service.contract.stored_models import StoredModel
from service.http.fields import Storable
from service.store.tables import Model as ModelTable

ModelName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$",
        description="Lower-case letters, digits, dots and dashes; audits may name the model by it.",
    ),
]
"""Never looks like an id, which has an underscore."""


class ModelCreate(BaseModel):
    """A base model to register. The meaning of `location` and `revision` depends on `source`."""

    model_config = ConfigDict(extra="forbid")
    name: ModelName
    source: ModelSource
    location: Annotated[str, Field(min_length=1, max_length=1000), Storable] = Field(
        description="hub: `owner/name`. local: the absolute path of a folder on the server. bundled: as this version's."
    )
    revision: Annotated[str, Field(min_length=1, max_length=100), Storable] | None = Field(
        default=None, description="hub: the commit, 40 hexadecimal digits. local: leave it out."
    )


class Model(BaseModel):
    """A base model that audits may train."""

    object: Literal["model"] = "model"
    id: str
    name: str
    source: ModelSource
    location: str
    revision: str | None
    bytes: int | None = Field(description="Of its files, where they lie in the object store (`stored`); else null.")
    created_at: datetime


def render_model(model: ModelTable) -> Model:
    """Return the model as the API shows it."""
    stored = None if model.stored is None else StoredModel.model_validate(model.stored)
    return Model(
        id=model.id,
        name=model.name,
        source=ModelSource(model.source) if stored is None else ModelSource.STORED,
        location=model.location,
        revision=model.revision,
        bytes=None if stored is None else stored.bytes,
        created_at=model.created_at,
    )
