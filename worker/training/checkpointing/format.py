"""One checkpoint on disk: a folder that is whole or is not there (docs/decisions/0017).

    {position}/manifest.json           format, identity, and size and SHA-256 of every other file; written last
    {position}/state.json              numbers
    {position}/{part}.safetensors      tensors, one file for each part of the state

The state is a nested dictionary with tensors and JSON values as leaves. Nothing is pickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from service.contract.protocol import CHECKPOINT_MANIFEST

FORMAT = 1
"""Raised with every change to what a checkpoint holds or how: one of another format is not resumed from."""

STATE_FILE = "state.json"
PARTIAL = ".partial-"
SEPARATOR = "/"

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
        written = {name: _write(partial / name, content) for name, content in _files(state)}
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
    """The state in `folder`, on the CPU. Raises UnusableError, ForeignError."""
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
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise UnusableError(f"{name} cannot be read ({type(error).__name__})") from None
        if len(content) != facts["bytes"] or hashlib.sha256(content).hexdigest() != facts["sha256"]:
            raise UnusableError(f"{name} is not what was written")
        if name == STATE_FILE:
            flat |= json.loads(content)
        else:
            # Copies: a tensor in the middle of a file's bytes lies at no address that vector code likes.
            flat |= {key: tensor.clone() for key, tensor in safetensors.torch.load(content).items()}
    return _nested(flat)


def _files(state: State) -> Iterator[tuple[str, bytes]]:
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    values: dict[str, Any] = {}
    for key, leaf in _flat(state, ""):
        if isinstance(leaf, torch.Tensor):
            tensors.setdefault(key.split(SEPARATOR)[0], {})[key] = leaf
        else:
            values[key] = leaf
    for part, own in tensors.items():
        content = {key: tensor.detach().cpu().contiguous() for key, tensor in own.items()}
        yield f"{part}.safetensors", safetensors.torch.save(content)
    yield STATE_FILE, json.dumps(values).encode()


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


def _write(path: Path, content: bytes) -> dict[str, Any]:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sync(folder: Path) -> None:
    """Of its entries: a file's own fsync says nothing of its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
