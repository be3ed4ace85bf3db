"""Which files a base model may consist of: the service checks when it registers a folder, the child when it loads one.

A folder is read as bytes and as JSON; nothing in it is executed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.contract.failure import ErrorCode, Failure

CONFIG_FILE = "config.json"
"""Describes a Transformers model."""
ADAPTER_FILE = "adapter_config.json"
"""Describes a PEFT adapter, which is not a base model."""
WEIGHTS_FILE = "model.safetensors"
"""The weights of a model in one file."""
WEIGHTS_INDEX = "model.safetensors.index.json"
"""Names the files of weights that are split."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".distcp")
"""Ends of names of files that PyTorch reads with pickle, which can execute any code."""

JSON_BYTES = 64 << 20
"""A longer JSON file is not one of a model."""

HEADER_BYTES = 100_000_000
"""The longest header that the safetensors library reads."""

LFS_POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS has left instead of the real one."""

QUANTISED = ("quantization_config", "compression_config")
"""Keys of config.json which say that the weights are not plain floats."""


class ModelFilesError(Exception):
    """The folder is not a base model that may be loaded; `failure` says why."""

    def __init__(self, code: ErrorCode, message: str, hint: str) -> None:
        """Build the failure that users see.

        Args:
            code: Why the model is refused.
            message: What is wrong with the folder.
            hint: What to do next.
        """
        super().__init__(message)
        self.failure = Failure(code=code, message=message, hint=hint)


def check_model_folder(folder: Path) -> None:
    """Check everything that can be checked of a folder given by a user without loading it.

    Raises:
        ModelFilesError: The folder holds a pickle, or `check_description` or `check_weights` refuses it.
        OSError: The folder or a file in it cannot be read.
    """
    names = _names(folder)
    check_description(folder)
    pickles = [name for name in names if name.lower().endswith(PICKLES) or name == ".metadata"]
    if pickles:
        raise ModelFilesError(
            ErrorCode.MODEL_UNSAFE,
            f"The model's folder holds {pickles[0]}, a pickle that could run code.",
            "Convert the weights to safetensors, move the pickles away, and try again.",
        )
    check_weights(folder)


def check_weights(folder: Path) -> None:
    """Check that all files of weights exist, are complete, and are safetensors.

    Raises:
        ModelFilesError: One of them is missing, damaged or cut, or `weight_files` refuses the folder.
        OSError: A file cannot be read.
    """
    present = {name for name in _names(folder) if name.endswith(".safetensors")}
    for name in sorted({*weight_files(folder), *present}):
        _check_safetensors(folder / name)


def check_description(folder: Path) -> None:
    """Check that a folder describes a complete base model with plain weights, which need not exist yet.

    Raises:
        ModelFilesError: There is no config.json, it is that of a quantised model, or there is an adapter.
        OSError: The folder or a file in it cannot be read.
    """
    names = _names(folder)
    if CONFIG_FILE not in names:
        raise ModelFilesError(
            ErrorCode.MODEL_NOT_FOUND,
            "The folder has no config.json: it is not a Transformers model.",
            "Name the folder that holds config.json and safetensors weights.",
        )
    if ADAPTER_FILE in names:
        raise ModelFilesError(
            ErrorCode.MODEL_UNSAFE,
            f"The model has an {ADAPTER_FILE}: it is an adapter, which would load or change another base model.",
            "Merge the adapter into its base model (PEFT's merge_and_unload), save the whole model as safetensors, and "
            "register that.",
        )
    if any(config.get(key) for config in _nested(_json(folder / CONFIG_FILE)) for key in QUANTISED):
        raise ModelFilesError(
            ErrorCode.BAD_CONFIG,
            "The model is quantised (its config.json has a quantization_config), and quantised weights cannot be "
            "audited.",
            "Register the model with its full weights, in float32, float16 or bfloat16.",
        )


def weight_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that hold a model's weights, whether they exist or not.

    Raises:
        ModelFilesError: The index names no weights, files outside the folder, or files that are not safetensors.
        OSError: A file cannot be read.
    """
    root = _json(folder / CONFIG_FILE).get("transformers_weights")
    if root is None:
        split = (folder / WEIGHTS_INDEX).is_file() and not (folder / WEIGHTS_FILE).is_file()
        root = WEIGHTS_INDEX if split else WEIGHTS_FILE
    names = [root]
    if str(root).endswith(".index.json") and (folder / _plain(root, CONFIG_FILE)).is_file():
        listed = _json(folder / root).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise _damaged(root, "does not say which files hold the weights")
        names = sorted(set(map(str, listed.values())))
    for name in names:
        if not _plain(name, root).endswith(".safetensors"):
            raise ModelFilesError(
                ErrorCode.MODEL_UNSAFE,
                f"The model's weights are to be read from {name}, which is no safetensors file.",
                "Convert the weights to safetensors, and try again.",
            )
    return tuple(names)


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_file())


def _plain(name: Any, source: str) -> str:
    """Return the name if it is that of a file in the folder itself.

    Raises:
        ModelFilesError: It is any other path.
    """
    if not isinstance(name, str) or Path(name).name != name or name == "..":
        raise ModelFilesError(
            ErrorCode.MODEL_UNSAFE,
            f"{source} names a file of weights outside the model's folder.",
            "Put all files of weights into the folder itself, and try again.",
        )
    return name


def _nested(value: Any) -> list[Mapping[str, Any]]:
    """Return a config and all configs in it, such as that of the text part of a multimodal model."""
    if not isinstance(value, dict):
        return []
    return [value, *(inner for part in value.values() for inner in _nested(part))]


def _json(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        content = file.read(JSON_BYTES)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        pointer = content.startswith(LFS_POINTER)
        raise _pointer(path.name) if pointer else _damaged(path.name, "is not a JSON object")
    return found


def _check_safetensors(path: Path) -> None:
    """Check that the header can be read, and that the file is as long as the header says."""
    if not path.is_file():
        raise ModelFilesError(
            ErrorCode.MODEL_NOT_FOUND,
            f"The model has no {path.name}, in which its weights should be.",
            "Convert the weights to safetensors, or copy all files of the model, and try again.",
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(len(LFS_POINTER))
        if first == LFS_POINTER:
            raise _pointer(path.name)
        length = int.from_bytes(first[:8], "little")
        if size < 8 or length > min(HEADER_BYTES, size - 8):
            raise _damaged(path.name, "is cut, or is no safetensors file")
        file.seek(8)
        header = file.read(length)
    try:
        parts = {name: part for name, part in json.loads(header).items() if name != "__metadata__"}
        end = max((int(part["data_offsets"][1]) for part in parts.values()), default=0)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError):
        raise _damaged(path.name, "has a header that cannot be read") from None
    if size != 8 + length + end:
        raise _damaged(path.name, f"has {size:,} bytes where its header says {8 + length + end:,}")


def _pointer(name: str) -> ModelFilesError:
    return ModelFilesError(
        ErrorCode.MODEL_NOT_FOUND,
        f"{name} is a pointer of Git LFS and not the file itself.",
        "Fetch the real files (git lfs pull, or hf download), and try again.",
    )


def _damaged(name: str, how: str) -> ModelFilesError:
    return ModelFilesError(
        ErrorCode.MODEL_NOT_FOUND,
        f"The model's file {name} is damaged: it {how}.",
        "Download or copy the file again, and try again.",
    )
