"""A tiny LoRA model in float64, and samples for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.support.tiny_model import ALL_LINEAR, RMSNorm
from worker.training.tokenization import IGNORED, TokenizedSample

# Matrices of 32 columns gain nothing from a second thread, and lose much where the cores are busy.
torch.set_num_threads(1)


@pytest.fixture
def lora_model(tiny_folder: Path) -> Callable[..., Any]:
    """make(dtype=float64, dropout=0, target_modules=all) with lora_B away from zero, so that lora_A has a gradient."""

    def make(
        *, dtype: torch.dtype = torch.float64, dropout: float = 0.0, target_modules: tuple[str, ...] = ALL_LINEAR
    ) -> Any:
        torch.manual_seed(1)
        base = LlamaForCausalLM.from_pretrained(tiny_folder, dtype=dtype)
        for name, module in list(base.named_modules()):
            if isinstance(module, LlamaRMSNorm):
                base.set_submodule(name, RMSNorm(module))
        lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=list(target_modules))
        model = get_peft_model(base, lora, autocast_adapter_dtype=False)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.normal_(std=0.05)
        return model

    return make


@pytest.fixture
def samples() -> list[TokenizedSample]:
    """Nine samples of different lengths; the last repeats the first."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for length in (5, 9, 17, 6, 30, 12, 8, 21):
        ids = torch.randint(3, 250, (length,), generator=generator).tolist()
        prompt = max(1, length // 3)
        made.append(TokenizedSample(tuple(ids), tuple([IGNORED] * prompt + ids[prompt:])))
    return [*made, made[0]]
