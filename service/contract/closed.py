"""The base of all models of the contract."""

from pydantic import BaseModel, ConfigDict


class Closed(BaseModel):
    """Base of all models of the contract: refuses unknown fields, so that a misspelt option is not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
