"""The object store: files under string keys such as `ws_1/datasets/ds_2/rows.parquet`.

A local folder for now; an S3-compatible store comes behind the same functions. An object appears whole or not
at all: it is written beside its place, flushed to disk and renamed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO


class ObjectStore:
    """Objects in a local folder, private to its owner."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, key: str) -> Path:
        """Where the object lies or would lie.

        Raises ValueError for a key with an empty part, `.` or `..`, or a NUL: keys are made of ids, never of
        names that a user gave.
        """
        parts = key.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise ValueError(f"not an object key: {key!r}")
        return self._root.joinpath(*parts)

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        """A binary file to write; the object exists once the block has ended without an exception."""
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with NamedTemporaryFile(dir=target.parent, prefix=".", suffix=".part", delete=False) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, target)

    def put_file(self, key: str, source: Path) -> None:
        """Copies a file in."""
        with source.open("rb") as reader, self.create(key) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)

    def delete_tree(self, prefix: str) -> None:
        """Deletes everything under the prefix; nothing there is no error."""
        shutil.rmtree(self.path(prefix), ignore_errors=True)


def dataset_key(workspace_id: str, dataset_id: str, name: str = "") -> str:
    """`name` is `original` or `rows.parquet`; empty gives the dataset's folder."""
    return "/".join(part for part in (workspace_id, "datasets", dataset_id, name) if part)


def audit_prefix(workspace_id: str, audit_id: str) -> str:
    """All output files of an audit."""
    return f"{workspace_id}/audits/{audit_id}"


def step_prefix(workspace_id: str, audit_id: str, attempt: int, step_key: str) -> str:
    """The output files of one step of one attempt."""
    return f"{audit_prefix(workspace_id, audit_id)}/{attempt}/{step_key.replace(':', '-')}"


def audit_key(workspace_id: str, audit_id: str, attempt: int, step_key: str, name: str) -> str:
    """An output file of one step of one attempt."""
    return f"{step_prefix(workspace_id, audit_id, attempt, step_key)}/{name}"
