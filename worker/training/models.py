"""Loads base models: safetensors only, no remote code, pinned revisions, every weight as it was trained."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.constants import ENDPOINT as HUB_ENDPOINT
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.contract.failure import ErrorCode
from service.contract.model_files import (
    ModelFilesError,
    check_description,
    check_model_folder,
    check_weights,
    weight_files,
)
from service.contract.spec import ModelSource, ModelSpec, TrainingConfig
from service.contract.stored_models import cached_name
from worker.training.bundled import bundled_model
from worker.training.errors import TrainingError
from worker.training.fault_kinds import causes, exhausted_memory, is_disk_full, is_network_trouble

EAGER_TOKENS = 512
"""On a CPU and up to this length plain attention takes a sixth less time than the fused kernel; above it, the fused
one saves memory that grows with the square of the length."""

DESCRIPTION = ("*.json", "*.jinja", "*.txt", "*.model", "*.spm", "*.tiktoken")
"""What is fetched of a hub model before its weights: configuration and tokenizer. No pickle is ever fetched."""

NAMED = 5
"""How many weights a message names."""


def load_model(spec: ModelSpec, config: TrainingConfig, device: torch.device, *, cache: Path) -> tuple[Any, Any]:
    """Load a base model (still on the CPU) and its tokenizer.

    ! RuntimeError, MemoryError: The memory did not suffice.

    Args:
        spec: Which model.
        config: Says in which type, and for what length of samples.
        device: Where it will be trained.
        cache: Folder of converted models.

    Returns:
        The model and its tokenizer.

    Raises:
        TrainingError: The model is missing, gated, damaged, quantised or not safe to load, or its weights are not all
            and only those that its configuration asks for.
        OSError: The disk is full.
    """
    with _faults_told(spec):
        folder = _folder(spec, cache)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        attention = "eager" if device.type == "cpu" and config.max_length <= EAGER_TOKENS else "sdpa"
        loader: Any = AutoModelForCausalLM
        model, found = loader.from_pretrained(
            folder,
            dtype=training_dtype(config, device),
            attn_implementation=attention,
            use_safetensors=True,
            output_loading_info=True,
            # Sizes that differ are told below, by name.
            ignore_mismatched_sizes=True,
            **options,
        )
    if str(model.config.name_or_path) != str(folder):
        raise TrainingError(
            ErrorCode.MODEL_UNSAFE,
            f"Loading {spec.location!r} led to the files of another model.",
            "Register a whole base model whose files name no other one.",
        )
    _check_weights_fit(spec, found)
    if model.get_output_embeddings() is None:
        raise TrainingError(
            ErrorCode.BAD_CONFIG,
            f"The model {spec.location!r} has no head that predicts the next token.",
            "Take a causal language model.",
        )
    return model, tokenizer


def pad_id(tokenizer: Any, model: Any) -> int:
    """Return the id that pads: the tokenizer's own where it has one, else any, since padding has no attention.

    Args:
        tokenizer: The tokenizer of the model; may know neither a padding nor an end token.
        model: Its embeddings bound the ids.
    """
    own = (tokenizer.pad_token_id, getattr(model.config, "pad_token_id", None), tokenizer.eos_token_id)
    known = [number for number in own if isinstance(number, int) and 0 <= number < embedding_count(model)]
    return known[0] if known else 0


def embedding_count(model: Any) -> int:
    """Return how many token ids the model has embeddings for."""
    return int(model.get_input_embeddings().weight.shape[0])


def position_count(model: Any) -> int | None:
    """Return how many tokens the model's learned or tabled positions suffice for; None where they are computed."""
    counts = []
    tokens = model.get_input_embeddings()
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and module is not tokens and ("pos" in last or last == "wpe"):
            # Some begin to count behind the padding's position, others keep a few places free in front.
            reserved = module.padding_idx + 1 if module.padding_idx is not None else getattr(module, "offset", 0)
            counts.append(module.num_embeddings - reserved)
    counts += [len(table) for name, table in model.named_buffers() if name.rpartition(".")[2] == "embed_positions"]
    return min(counts) if counts else None


def training_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """Return the type of the frozen base weights: what was asked for, or bfloat16 if the device computes in it.

    Args:
        config: Says what was asked for.
        device: Where the model is trained.
    """
    if config.dtype != "auto":
        return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


# ------------------------------------------------------------


def _folder(spec: ModelSpec, cache: Path) -> Path:
    """Return the folder that holds the model, checked; a hub model is fetched into the hub's own cache."""
    if spec.source is ModelSource.BUNDLED:
        return bundled_model(spec, cache)
    if spec.source is ModelSource.LOCAL:
        folder = Path(spec.location)
        if not (folder / "config.json").is_file():
            raise TrainingError(
                ErrorCode.MODEL_NOT_FOUND,
                f"There is no model in {spec.location!r} on this worker.",
                "Register a folder that exists on every worker and holds config.json and safetensors weights.",
            )
        # Checked when it was registered, too; but it may have changed, and it lay on the service's disk.
        check_model_folder(folder)
        return folder
    if spec.source is ModelSource.STORED:
        folder = cache / cached_name(spec.revision or "")
        if not folder.is_dir():
            raise TrainingError(
                ErrorCode.MODEL_NOT_FOUND,
                f"The model {spec.location!r} is no longer in this worker's cache.",
                "Something has emptied the cache folder. Retry the audit: the worker fetches the model again.",
            )
        check_model_folder(folder)
        return folder
    if not spec.revision:
        raise TrainingError(
            ErrorCode.MODEL_UNSAFE,
            f"The model {spec.location!r} has no pinned revision.",
            "Register it with a commit: 40 hexadecimal digits.",
        )
    # Fetched apart, so that nothing is loaded, and no weights are waited for, before the description was looked at.
    folder = _fetch(spec, DESCRIPTION)
    check_description(folder)
    _fetch(spec, weight_files(folder))
    check_weights(folder)
    return folder


def _fetch(spec: ModelSpec, names: Iterable[str]) -> Path:
    # What lies in folders of a repository is not the model: originals in another format, checkpoints, examples.
    patterns = list(names)
    try:
        found = snapshot_download(spec.location, revision=spec.revision, allow_patterns=patterns, ignore_patterns="*/*")
    except Exception as error:
        if _is_unreachable(error):
            raise _unreachable(spec, error) from error
        raise
    return Path(found)


@contextmanager
def _faults_told(spec: ModelSpec) -> Iterator[None]:
    """Raise TrainingError for whatever is wrong with the model's files.

    They come from others and are read by libraries that raise errors of every type over them; a full disk and a full
    memory are not the files' fault.
    """
    try:
        yield
    except TrainingError:
        raise
    except ModelFilesError as error:
        found = error.failure
        raise TrainingError(found.code, f"Model {spec.location!r}: {found.message}", found.hint) from error
    except Exception as error:
        for cause in causes(error):
            if exhausted_memory(cause) or is_disk_full(cause):
                raise cause  # noqa: B904  # It is a cause already.
        if spec.source is ModelSource.HUB and any(_is_refused(cause) for cause in causes(error)):
            raise _gated(spec) from error
        raise TrainingError(
            ErrorCode.MODEL_NOT_FOUND,
            f"The model {spec.location!r} could not be loaded ({type(error).__name__}).",
            _what_to_check(spec.source),
        ) from error


def _what_to_check(source: ModelSource) -> str:
    whole = (
        "it is a causal language model of the Transformers library, with its tokenizer, in safetensors and without "
        "code of its own."
    )
    if source is ModelSource.HUB:
        return (
            "Check its name and revision, that the worker can reach it (a private model needs HF_TOKEN on the worker), "
            f"and that {whole}"
        )
    return f"Check that the folder has a valid config.json with a model_type that the worker knows, and that {whole}"


def _is_refused(error: BaseException) -> bool:
    """Return whether the hub says that it knows the model and does not hand it out."""
    if isinstance(error, GatedRepoError):
        return True
    if isinstance(error, HfHubHTTPError) and not isinstance(error, RepositoryNotFoundError):
        # Of a model that does not exist the hub says 401 too, which has an error of its own.
        return error.response is not None and error.response.status_code in (401, 403)
    return False


def _gated(spec: ModelSpec) -> TrainingError:
    return TrainingError(
        ErrorCode.MODEL_GATED,
        f"The hub does not give {spec.location!r} to this worker.",
        f"Accept the model's licence at {HUB_ENDPOINT}/{spec.location}, set HF_TOKEN on the worker to a token of the "
        "same account that may read gated models, restart the worker, and retry the audit.",
    )


def _is_unreachable(error: Exception) -> bool:
    """Return whether the hub gave no answer, or one that says nothing of the model."""
    found = list(causes(error))
    # The hub's client wraps what it was answered in what it says where it cannot ask.
    answers = (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError)
    if any(is_disk_full(cause) or isinstance(cause, answers) or _is_refused(cause) for cause in found):
        return False
    return any(is_network_trouble(cause) for cause in found)


def _unreachable(spec: ModelSpec, error: Exception) -> TrainingError:
    return TrainingError(
        ErrorCode.NETWORK,
        f"The files of the model {spec.location!r} could not be fetched from {HUB_ENDPOINT} ({type(error).__name__}).",
        "Check the worker's way to the hub: its proxy (HTTPS_PROXY), HF_ENDPOINT, and that HF_HUB_OFFLINE is not set. "
        "What has been fetched is kept. Then retry the audit.",
    )


def _check_weights_fit(spec: ModelSpec, found: Any) -> None:
    """Raise TrainingError where a weight was not in the files, or nowhere in the model: it would be drawn at random."""
    sizes = [name for name, *_ in found["mismatched_keys"]]
    for names, fault in (
        (sizes, "weights of another size than its config.json says"),
        (found["missing_keys"], "no weights for parts that its config.json asks for"),
        (found["unexpected_keys"], "weights that belong to no part of it"),
    ):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            listed = ", ".join(sorted(names)[:NAMED]) + more
            raise TrainingError(
                ErrorCode.MODEL_NOT_FOUND,
                f"The files of the model {spec.location!r} hold {fault}: {listed}.",
                "Register the whole causal language model as it was saved: all its files, and config.json and weights "
                "of the same model. A classifier or an encoder is not one.",
            )
