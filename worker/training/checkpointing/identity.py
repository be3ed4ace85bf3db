"""What has to be equal for a checkpoint to be gone on from, so that the result is that of one undisturbed run."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import torch

from service.contract.spec import StepSpec

LIBRARIES = ("numpy", "torch", "transformers", "peft")
"""Whose versions decide over bits."""

TOKENIZATION = "2"
"""Raised when our own way from conversations to labelled tokens changes for any of them."""

RECORDED = "3"
"""Raised when what is kept of each draw changes its shape or meaning."""


def run_identity(spec: StepSpec, rows: Path, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Return what a training step on some samples is known by, in parts with names, so that a difference can be named.

    What only the audit's last step reads is left out, and so is what decides about memory and changes no result. The
    kind of device counts, not its make: of two GPUs neither repeats itself to the bit.

    Args:
        spec: What the step has to do.
        rows: Path of the samples.
        device: Where it trains.
        dtype: The type of the base weights.

    Raises:
        OSError: The samples cannot be read.
    """
    probes = [probe.model_dump(mode="json", exclude={"name"}) for probe in spec.probes]
    with rows.open("rb") as file:
        samples = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "model": spec.model.model_dump_json(),
        # micro_batch_size is set to its default, and what is younger than it is left out: the identity of whoever never
        # set either is then that of earlier versions.
        "training": spec.training.model_copy(update={"micro_batch_size": None}).model_dump_json(
            exclude={"gradient_checkpointing"}
        ),
        "probes": hashlib.sha256(json.dumps(probes).encode()).hexdigest(),
        "placebos": str(spec.seeds[0]),
        "samples": samples,
        "device": f"{device.type} {dtype}",
        "tokenization": TOKENIZATION,
        "recorded": RECORDED,
        "libraries": " ".join(f"{name}=={version(name)}" for name in LIBRARIES),
    }
