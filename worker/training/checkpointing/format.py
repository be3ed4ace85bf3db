"""One checkpoint on disk: a folder that is whole or is not there (docs/decisions/0017).

    {position}/manifest.json           format, identity, and size and SHA-256 of every other file; written last
    {position}/state.json              numbers
    {position}/{part}.safetensors      tensors, one file for each part of the state

The state is a nested dictionary with tensors and JSON values as leaves. Nothing is pickled.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from service.contract.protocol import CHECKPOINT_MANIFEST

FORMAT = 1
"""Raised with every change to what a checkpoint holds or how: one of another format is not resumed from."""

STATE_FILE = "state.json"
PARTIAL = ".partial-"
SEPARATOR = "/"

ROWS_ON_DISK = "measurement/by_products/inner"
"""The one tensor that is read from its file only as it is used: it is larger than the memory of the run may be. Nothing
is computed with it where it lies."""

State = Mapping[str, Any]


class UnusableError(Exception):
    """A checkpoint that is torn or damaged."""


class ForeignError(Exception):
    """A whole checkpoint of another run, or of another version of this code."""


def write_checkpoint(root: Path, position: int, state: State, identity: Mapping[str, str]) -> Path:
    """Writes {root}/{position} and returns it once it is on the disk. Raises OSError, and then leaves nothing."""
    partial, final = root / f"{PARTIAL}{position:09d}", root / f"{position:09d}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        written = {name: _facts(partial / name) for name in _write_state(partial, state)}
        manifest = {"format": FORMAT, "identity": dict(identity), "position": position, "files": written}
        _write(partial / CHECKPOINT_MANIFEST, json.dumps(manifest).encode())
        _sync(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def read_checkpoint(folder: Path, identity: Mapping[str, str]) -> dict[str, Any]:
    """The state in `folder`, on the CPU; ROWS_ON_DISK still on the disk. Raises UnusableError, ForeignError."""
    try:
        manifest = json.loads((folder / CHECKPOINT_MANIFEST).read_bytes())
        found, files = {"format": manifest["format"], **manifest["identity"]}, dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableError(f"its manifest cannot be read ({type(error).__name__})") from None
    expected = {"format": FORMAT, **identity}
    if found != expected:
        other = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ForeignError(f"it differs in {', '.join(other)}")
    flat: dict[str, Any] = {}
    for name, facts in files.items():
        path = folder / name
        try:
            found = _facts(path)
        except OSError as error:
            raise UnusableError(f"{name} cannot be read ({type(error).__name__})") from None
        if found != facts:
            raise UnusableError(f"{name} is not what was written")
        if name == STATE_FILE:
            flat |= json.loads(path.read_bytes())
        else:
            # Copies: a tensor in the middle of a file lies at no address that vector code likes.
            with safetensors.safe_open(path, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118  # it is no mapping
                    own = tensors.get_tensor(key)
                    flat[key] = own if key == ROWS_ON_DISK else own.clone()
    return _nested(flat)


def _write_state(folder: Path, state: State) -> Iterator[str]:
    """Writes all files of the state but the manifest; the name of each once it is on the disk."""
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    values: dict[str, Any] = {}
    for key, leaf in _flat(state, ""):
        if isinstance(leaf, torch.Tensor):
            tensors.setdefault(key.split(SEPARATOR)[0], {})[key] = leaf
        else:
            values[key] = leaf
    for part, own in tensors.items():
        name = f"{part}.safetensors"
        _write_tensors(folder / name, own)
        yield name
    _write(folder / STATE_FILE, json.dumps(values).encode())
    yield STATE_FILE


def _flat(state: State, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, leaf in state.items():
        if SEPARATOR in name:
            raise ValueError(f"no name of a state may hold {SEPARATOR!r}: {name!r}")
        if isinstance(leaf, Mapping) and leaf:
            yield from _flat(leaf, f"{prefix}{name}{SEPARATOR}")
        else:
            yield f"{prefix}{name}", leaf


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for key, leaf in flat.items():
        *path, name = key.split(SEPARATOR)
        inner = state
        for part in path:
            inner = inner.setdefault(part, {})
        inner[name] = leaf
    return state


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    content = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    try:
        # Not through bytes: they would be a second copy of all that was recorded.
        safetensors.torch.save_file(content, path)
    except safetensors.SafetensorError as error:
        # It tells the disk's errors, as that it is full, in words alone.
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number)) from error
    _sync(path)


def _facts(path: Path) -> dict[str, Any]:
    """What the manifest says of a file."""
    with path.open("rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    """Write a file's content, or a folder's entries, to the disk: a file's own fsync does not cover its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
