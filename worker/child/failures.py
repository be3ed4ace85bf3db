"""Turns whatever ended a step into a Failure with a code, what happened, and what to do next.

Types of libraries are told by name: one that cannot be imported may be what failed. No message of an error is passed
on but our own, since others may quote a sample.
"""

from collections.abc import Mapping

from pydantic import ValidationError

from service.contract.failure import ErrorCode, Failure
from worker.influence.errors import IndistinguishableError
from worker.training.fault_kinds import (
    Memory,
    exhausted_memory,
    is_device_failure,
    is_disk_failing,
    is_disk_full,
    is_network_trouble,
)
from worker.training.out_of_memory import RAN_OUT

RETRY = "Then retry the audit."
"""The end of hints: what to do once the cause is gone."""

KNOWN: Mapping[str, tuple[ErrorCode, str, str]] = {
    "jinja2.SecurityError": (
        ErrorCode.MODEL_UNSAFE,
        "The model's chat template does what a template may not.",
        "Register a model whose chat template comes from a source that you trust.",
    ),
    "jinja2.TemplateError": (
        ErrorCode.BAD_CONFIG,
        "The model's chat template does not take a conversation of the dataset or of a probe",
        "Look at its roles: many templates want user and assistant in turn. Change the conversation, or "
        "take a model whose template takes it.",
    ),
    "safetensors.SafetensorError": (
        ErrorCode.MODEL_NOT_FOUND,
        "A file of the model's weights is damaged.",
        f"Download or copy the model's files again. {RETRY}",
    ),
    "huggingface_hub.GatedRepoError": (
        ErrorCode.MODEL_GATED,
        "The hub does not give the model to this worker.",
        "Accept the model's licence on its page, and set HF_TOKEN on the worker to a token of the same account. "
        + RETRY,
    ),
    "huggingface_hub.RepositoryNotFoundError": (
        ErrorCode.MODEL_NOT_FOUND,
        "The hub knows no model of this name.",
        "Check the name; a private model needs HF_TOKEN on the worker.",
    ),
    "huggingface_hub.RevisionNotFoundError": (
        ErrorCode.MODEL_NOT_FOUND,
        "The hub's model has no such revision.",
        "Register the model with a commit that it has.",
    ),
    "huggingface_hub.LocalEntryNotFoundError": (
        ErrorCode.NETWORK,
        "A file of the model is not on the worker, and the hub could not be asked for it.",
        f"Check the way from the worker to the hub. {RETRY}",
    ),
    "huggingface_hub.RemoteEntryNotFoundError": (
        ErrorCode.MODEL_NOT_FOUND,
        "The hub's model lacks a file.",
        "Register a model that is whole: a causal language model with its tokenizer, in safetensors.",
    ),
    "huggingface_hub.HfHubHTTPError": (
        ErrorCode.NETWORK,
        "The hub did not answer the worker as it should.",
        f"Check the way from the worker to the hub. {RETRY}",
    ),
}
"""By library and name of a type or of one that it derives from; the nearest counts. A message without a full stop is
completed with the row."""

OUT_OF_MEMORY_HINTS = {
    Memory.DEVICE: "Set training.gradient_checkpointing to true, lower training.max_length or training.lora_r, take a "
    "smaller model, or give the worker a GPU with more memory; see with nvidia-smi whether something else is on it.",
    Memory.HOST: "Give the worker's machine or container more memory, or take a smaller dataset or model; see whether "
    "something else runs on it.",
}
"""What to do where memory ran out, by which memory it was."""


def failure_of(error: Exception) -> Failure:
    """Return why the step failed. `internal` is what only a defect of ours explains."""
    known = getattr(error, "failure", None)
    if isinstance(known, Failure):
        return known
    found = _described(error)
    row = getattr(error, "row", None)
    where = "" if row is None else f" (row {row})"
    message = found.message if found.message.endswith(".") else f"{found.message}{where}."
    return found.model_copy(update={"message": message})


def _described(error: Exception) -> Failure:
    if isinstance(error, IndistinguishableError):
        return Failure(code=ErrorCode.SAMPLES_ALIKE, message=str(error), hint=error.hint)
    if isinstance(error, ValidationError):
        return Failure(
            code=ErrorCode.BAD_CONFIG,
            message="The step's specification or a file of an earlier step was not understood.",
            hint="Run the same version of Finetooth in the service and in the workers, then start the audit again.",
        )
    memory = exhausted_memory(error)
    if memory is not None:
        return Failure(code=ErrorCode.OUT_OF_MEMORY, message=RAN_OUT[memory], hint=OUT_OF_MEMORY_HINTS[memory])
    if is_device_failure(error):
        return Failure(
            code=ErrorCode.DEVICE_FAILED,
            message="The worker's GPU or its driver failed.",
            hint=f"Look at it with nvidia-smi and in the system's log (Xid), and at the worker's log. {RETRY}",
        )
    if is_disk_full(error):
        return Failure(
            code=ErrorCode.DISK_FULL,
            message="The worker's disk is full.",
            hint=f"Free space in the worker's data and cache folders, or give it a larger disk. {RETRY}",
        )
    for kind in type(error).__mro__:
        entry = KNOWN.get(f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}")
        if entry is not None:
            code, message, hint = entry
            return Failure(code=code, message=message, hint=hint)
    if is_network_trouble(error):
        return Failure(
            code=ErrorCode.NETWORK,
            message=f"The worker could not reach another machine ({type(error).__name__}).",
            hint=f"Check the way from the worker to the hub and to the package index. {RETRY}",
        )
    if is_disk_failing(error):
        return Failure(
            code=ErrorCode.DISK_ERROR,
            message=f"The worker could not read or write a file ({type(error).__name__}).",
            hint="Check that its data and cache folders belong to the worker's user, are not read-only and are sound, "
            f"and how many files it may open. {RETRY}",
        )
    if isinstance(error, ImportError):
        return Failure(
            code=ErrorCode.BAD_CONFIG,
            message="A library that this model or this run needs is not installed on the worker.",
            hint=f"Install the worker again with all its dependencies, or take another model. {RETRY}",
        )
    return Failure(
        code=ErrorCode.INTERNAL,
        message=f"The training process met an error that nobody expected ({type(error).__name__})",
        hint="This is a defect in Finetooth. The worker's log has the place: please report it.",
    )
