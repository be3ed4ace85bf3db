"""Rows in columns, as they are stored, counted and looked at, however they were read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.datasets.parsing.batch import Batch
from service.datasets.parsing.turns import ROLES

_ROLE_NUMBERS = {role: number for number, role in enumerate(ROLES)}


@dataclass(slots=True)
class Columns:
    """Rows one after the other, each of one turn or more. Arrow arrays have neither an offset nor nulls."""

    roles: NDArray[np.int32]
    """[turns], positions in ROLES."""
    contents: Any
    """[turns], an Arrow array of strings."""
    bounds: NDArray[np.int32]
    """[rows + 1]: row i has the turns from bounds[i] up to bounds[i + 1]."""
    canonical: Any
    """The messages of all rows as canonical JSON, one after the other: bytes, or an Arrow buffer."""
    canonical_bounds: NDArray[np.int64]
    """[rows + 1]: where the messages of each row begin in `canonical`, in bytes."""
    extra_json: Any
    """[rows], an Arrow array of strings: the other columns, as a JSON object."""
    starts: NDArray[np.int64] | None
    """[rows]: where each record begins in the decompressed upload, and how long it is; None where it has no lines."""
    lengths: NDArray[np.int64] | None
    extras: Sequence[dict[str, Any]] = ()
    """[rows]: the other columns as they were read; empty where `values` has them."""
    values: dict[str, Any] = field(default_factory=dict)
    """For each other column an Arrow array of its values in the rows that have it; None is a null."""
    ignored: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Row, from 0: keys of turns that no audit uses. Rows without any are not there."""
    noted: dict[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Row, from 0: kinds of notices of its turns, each with what was found."""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def digests(self) -> bytes:
        """SHA-256 of each row's canonical messages, 32 bytes each."""
        sha256 = hashlib.sha256
        text = memoryview(self.canonical)
        return b"".join([sha256(text[start:end]).digest() for start, end in pairwise(self.canonical_bounds.tolist())])


def columns_of(batches: Sequence[Batch]) -> Columns:
    """Join the rows of batches, in order."""

    def of_all(name: str) -> list[Any]:
        return list(chain.from_iterable(getattr(batch, name) for batch in batches))

    def numbers(name: str) -> NDArray[np.int64] | None:
        if any(getattr(batch, name) is None for batch in batches):
            return None
        return np.array(of_all(name), np.int64)

    canonical, rows = of_all("canonical"), 0
    ignored: dict[int, tuple[str, ...]] = {}
    noted: dict[int, tuple[tuple[str, str], ...]] = {}
    for batch in batches:
        noted |= {rows + position: found for position, found in batch.noted.items()}
        ignored |= {rows + position: keys for position, keys in batch.ignored.items()}
        rows += len(batch)
    return Columns(
        roles=np.fromiter(map(_ROLE_NUMBERS.__getitem__, of_all("roles")), np.int32),
        contents=pa.array(of_all("contents"), pa.string()),
        bounds=bounds_of(of_all("counts")).astype(np.int32),
        canonical=b"".join(canonical),
        canonical_bounds=bounds_of(list(map(len, canonical))),
        extra_json=pa.array(of_all("extra_json"), pa.string()),
        starts=numbers("starts"),
        lengths=numbers("lengths"),
        extras=of_all("extras"),
        ignored=ignored,
        noted=noted,
    )


def bounds_of(counts: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """[n + 1] Return where each of n groups of these sizes begins, and where the last one ends."""
    bounds = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=bounds[1:])
    return bounds


def strings_of(bounds: NDArray[Any], text: Any) -> Any:
    """Make an Arrow array of strings from the parts of a text.

    Args:
        bounds: [strings + 1] Where each part begins, and where the last one ends, in bytes.
        text: The text in UTF-8.
    """
    return pa.StringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(text))


def bytes_of(strings: Any) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the bounds of each string of an Arrow array without an offset, and the text of all, without copying."""
    _, bounds, text = strings.buffers()
    if bounds is None or not len(strings):
        return np.zeros(1, np.int32), np.zeros(0, np.uint8)
    where = np.frombuffer(bounds, np.int32)[: len(strings) + 1]
    return where, np.frombuffer(text if text is not None else b"", np.uint8)[: where[-1]]
