"""The base of all models of the contract."""

from pydantic import BaseModel, ConfigDict


class Closed(BaseModel):
    """Refuses unknown fields, so that a misspelt option is an error and not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
