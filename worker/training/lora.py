"""Puts LoRA layers on the linear layers of a base model that were asked for, and on nothing else."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from service.contract.failure import ErrorCode
from service.contract.spec import TrainingConfig
from worker.training.errors import TrainingError

NAMED = 12
"""How many names a hint lists."""


def with_lora(model: Any, config: TrainingConfig) -> Any:
    """Return the model with fresh float32 LoRA layers, initialised from config.seed; everything else is frozen.

    Args:
        model: A base model.
        config: Names the layers, and says how large their LoRA is.

    Raises:
        TrainingError: A target is no linear layer of the model's blocks; the hint names those that are.
    """
    _check_targets(model, config.target_modules)
    torch.manual_seed(config.seed)
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora, autocast_adapter_dtype=True)
    except ValueError as error:
        raise TrainingError(
            ErrorCode.BAD_CONFIG,
            f"No LoRA can be put on {_listed(config.target_modules)} of this model.",
            _hint(model),
        ) from error


def linear_targets(model: nn.Module) -> list[str]:
    """Return the last names of the linear layers that LoRA may be put on, each once, in the model's order."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    names = (
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    )
    return list(dict.fromkeys(names))


def _check_targets(model: nn.Module, targets: tuple[str, ...]) -> None:
    head = model.get_output_embeddings()  # type: ignore[operator]
    unknown, unfit = [], []
    for target in targets:
        # As PEFT finds them: by the whole name, or by its end.
        found = [m for name, m in model.named_modules() if name == target or name.endswith(f".{target}")]
        if not found:
            unknown.append(target)
        elif any(module is head or not isinstance(module, nn.Linear | Conv1D) for module in found):
            unfit.append(target)
    if unknown:
        raise TrainingError(ErrorCode.BAD_CONFIG, f"The model has no modules named {_listed(unknown)}.", _hint(model))
    if unfit:
        raise TrainingError(
            ErrorCode.BAD_CONFIG,
            f"Influence cannot be measured in {_listed(unfit)}: it is no linear layer of the model's blocks.",
            _hint(model),
        )


def _hint(model: nn.Module) -> str:
    known = linear_targets(model)
    if not known:
        return "Take a model whose blocks have linear layers."
    return f"Name linear layers of the model in training.target_modules: {_listed(known)}."


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if names[NAMED:] else "")
