"""Models of random weights: the shape of Llama-3.1-8B for a GPU, and one of the same code that a CPU trains at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.overhead import LLAMA_8B
from tests.support.tiny_model import byte_tokenizer


@dataclass(frozen=True)
class Shape:
    """A model of random weights, and how long and how much it is trained here."""

    name: str
    fields: Mapping[str, Any]
    """Of LlamaConfig."""
    dtype: Literal["float32", "bfloat16"]
    short: int
    """Characters, and so about tokens, of a short sample."""
    long: int
    """Likewise of a long one; a step of long ones needs several times the memory of one of short ones."""
    room: int
    """Bytes that a step of long samples does not fit into, beside what steps of short ones have taken."""
    turns: int
    """Of ten steps each, of the speed table."""


LLAMA = Shape("llama-3.1-8b", LLAMA_8B, "bfloat16", short=120, long=1000, room=3 << 30, turns=12)

TINY = Shape(
    "tiny",
    {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        # The default of 0.02 leaves so narrow a model nearly blind to its input.
        "initializer_range": 0.2,
    },
    "float32",
    short=60,
    long=480,
    room=64 << 20,
    turns=4,
)

SHAPES = {shape.name: shape for shape in (LLAMA, TINY)}


def random_model(shape: Shape, device: torch.device, **changed: Any) -> Any:
    """Build a model on the device, its weights drawn there.

    Args:
        shape: Its size and type.
        device: Where it is built.
        **changed: Fields of the configuration that are other than the shape's.
    """
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, shape.dtype))
    try:
        with torch.device(device):
            return LlamaForCausalLM(LlamaConfig(**{**shape.fields, **changed}))
    finally:
        torch.set_default_dtype(before)


def write_model(shape: Shape, device: torch.device, folder: Path) -> Path:
    """Write config.json, safetensors and a tokenizer of one token a byte, as a worker loads them; return the folder."""
    folder.mkdir(parents=True)
    random_model(shape, device).save_pretrained(folder, safe_serialization=True)
    byte_tokenizer().save_pretrained(folder)
    return folder
