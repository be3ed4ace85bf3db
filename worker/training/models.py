"""Loads base models: safetensors only, no remote code, pinned revisions."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import ENDPOINT as HUB_ENDPOINT
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.contract.failure import ErrorCode
from service.contract.spec import ModelSource, ModelSpec, TrainingConfig
from worker.training.bundled import bundled_model
from worker.training.errors import TrainingError

EAGER_TOKENS = 512
"""On a CPU and up to this length plain attention takes a sixth less time than the fused kernel; above it, the fused
one saves memory that grows with the square of the length."""


def load_model(spec: ModelSpec, config: TrainingConfig, device: torch.device, *, cache: Path) -> tuple[Any, Any]:
    """Base model (still on the CPU) and tokenizer. cache: folder of converted models.

    Raises TrainingError when the model is missing, gated, or not safe to load.
    """
    location, options = _locate(spec, cache)
    attention = "eager" if device.type == "cpu" and config.max_length <= EAGER_TOKENS else "sdpa"
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False, **options)
        model = AutoModelForCausalLM.from_pretrained(
            location,
            dtype=training_dtype(config, device),
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError) as error:
        if spec.source is ModelSource.HUB and _is_refused(error):
            raise _gated(spec) from error
        raise TrainingError(
            ErrorCode.MODEL_NOT_FOUND,
            f"the model {spec.location!r} could not be loaded: {type(error).__name__}",
            _what_to_check(spec.source),
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _what_to_check(source: ModelSource) -> str:
    if source is ModelSource.HUB:
        return (
            "check its name and revision, that the worker can reach it (a private model needs HF_TOKEN on the worker), "
            "and that it has safetensors weights and needs no code of its own"
        )
    return (
        "check that the folder holds a valid config.json whose model_type the worker's transformers knows, the "
        "tokenizer's files, and safetensors weights, and that it needs no code of its own"
    )


def _is_refused(error: BaseException | None) -> bool:
    """Whether the hub knows the model and does not hand it out; transformers wraps what the hub has said."""
    while error is not None:
        if isinstance(error, GatedRepoError):
            return True
        if isinstance(error, HfHubHTTPError) and not isinstance(error, RepositoryNotFoundError):
            # Of a model that does not exist the hub says 401 too, which has an error of its own.
            return error.response is not None and error.response.status_code in (401, 403)
        error = error.__cause__ or error.__context__
    return False


def _gated(spec: ModelSpec) -> TrainingError:
    return TrainingError(
        ErrorCode.MODEL_GATED,
        f"the hub does not give {spec.location!r} to this worker",
        f"accept the model's licence at {HUB_ENDPOINT}/{spec.location}, set HF_TOKEN on the worker to a token of the "
        "same account that may read gated models, restart the worker, and retry the audit",
    )


def _locate(spec: ModelSpec, cache: Path) -> tuple[str, dict[str, Any]]:
    if spec.source is ModelSource.BUNDLED:
        return str(bundled_model(spec, cache)), {"local_files_only": True}
    if spec.source is ModelSource.LOCAL:
        if not Path(spec.location, "config.json").is_file():
            raise TrainingError(
                ErrorCode.MODEL_NOT_FOUND,
                f"there is no model in {spec.location!r} on this worker",
                "register a folder that exists on every worker and holds config.json and safetensors weights",
            )
        return spec.location, {"local_files_only": True}
    if not spec.revision:
        raise TrainingError(
            ErrorCode.MODEL_UNSAFE, f"the model {spec.location!r} has no pinned revision", "register it with a commit"
        )
    return spec.location, {"revision": spec.revision}


def with_lora(model: Any, config: TrainingConfig) -> Any:
    """The model with fresh float32 LoRA layers, initialised from config.seed; everything else is frozen.

    Raises TrainingError when the model has none of the target modules.
    """
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
            f"the model has no modules named {', '.join(config.target_modules)}",
            "name linear layers of the model in training.target_modules, for a Llama q_proj and v_proj",
        ) from error


def training_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """The type of the frozen base weights: what was asked for; for auto bfloat16 if the device computes in it."""
    if config.dtype != "auto":
        return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
