"""Gradient checkpointing: a layer's activations are dropped and computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from service.contract.failure import ErrorCode
from worker.training.errors import TrainingError


def checkpoint_activations(model: Any) -> None:
    """Let every block of a PEFT model keep its input alone while it trains; no result changes.

    Raises:
        TrainingError: The model's blocks cannot do that.
    """
    base = model.get_base_model()
    if base.supports_gradient_checkpointing:
        base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if not list(_checkpointed(model)):
        raise TrainingError(
            ErrorCode.BAD_CONFIG,
            "The model's layers cannot compute their activations again (gradient checkpointing).",
            "Set training.gradient_checkpointing to false, or take another model.",
        )


@contextmanager
def also_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Within the block, which evaluates the model, its blocks checkpoint as they do in training.

    Blocks look at their own mode alone; what they consist of, dropout among it, stays in evaluation mode.
    """
    layers = [(layer, layer.training) for layer in _checkpointed(model)]
    for layer, _ in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer, training in layers:
            layer.training = training


def _checkpointed(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            yield module
