"""The object store: files under string keys such as `ws_1/datasets/ds_2/rows.parquet`, in a folder or a bucket.

Whoever stores or reads holds no whole object in memory. An object appears whole or not at all.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import IO

COPY_BYTES = 1 << 20
"""Bytes that are copied at a time."""


class ObjectMissingError(LookupError):
    """There is no object under that key."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"no object {key}; check that the API and the workers share one object store "
            "(FINETOOTH_OBJECT_DIR or FINETOOTH_OBJECT_URL)"
        )


class ObjectStoreUnavailableError(Exception):
    """The store does not answer, or refuses; the same act may succeed later. The message holds no key of its owner."""


class ObjectStore(ABC):
    """Objects under keys. Every method raises ValueError for a key with an empty part, `.`, `..` or a NUL.

    Keys are made of ids, never of names that a user gave.
    """

    @abstractmethod
    def create(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """A real file to write (it has a descriptor); the object exists once the block ended without an exception.

        Readers see the object that was there before, or none, until then. Raises ObjectStoreUnavailableError, OSError.
        """

    @abstractmethod
    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """The object as a file to read, with `seek`. Raises ObjectMissingError, ObjectStoreUnavailableError."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is such an object. Raises ObjectStoreUnavailableError."""

    @abstractmethod
    def all_keys(self) -> Iterator[str]:
        """The keys of all objects, in no order. Raises ObjectStoreUnavailableError."""

    @abstractmethod
    def check(self) -> None:
        """Raises ObjectStoreUnavailableError where the store does not answer."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> bool:
        """Deletes every object under `prefix/`; nothing there is no error. False: some are left, as the log says."""

    @abstractmethod
    def untouched(self, prefix: str, span: timedelta) -> list[str]:
        """Return the names right under a prefix beneath which nothing, finished or not, was written for a while.

        Args:
            prefix: Where to look, without a slash at its end.
            span: For how long nothing was written.

        Raises:
            ObjectStoreUnavailableError: The store does not answer.
        """

    def put_file(self, key: str, source: Path) -> None:
        """Copy a file into the store. Errors are those of `create`.

        Args:
            key: The object's key.
            source: Path of the file.
        """
        with source.open("rb") as reader, self.create(key) as writer:
            shutil.copyfileobj(reader, writer, COPY_BYTES)

    def fetch(self, key: str, target: Path) -> None:
        """Copy an object into a new file. Errors are those of `open`, and OSError.

        Args:
            key: The object's key.
            target: Path of the file.
        """
        with self.open(key) as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, COPY_BYTES)


def key_parts(key: str) -> list[str]:
    """Split a key or prefix at its slashes.

    Raises:
        ValueError: A part is empty or could lead elsewhere, such as "..".
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError(f"not an object key: {key!r}")
    return parts


def dataset_key(workspace_id: str, dataset_id: str, name: str = "") -> str:
    """Return the key of a file of a dataset.

    Args:
        workspace_id: Id of the workspace.
        dataset_id: Id of the dataset.
        name: `original` or `rows.parquet`; empty: the prefix of all of the dataset's files.
    """
    return "/".join(part for part in (workspace_id, "datasets", dataset_id, name) if part)


def datasets_prefix(workspace_id: str) -> str:
    """The folders of all datasets of a workspace."""
    return f"{workspace_id}/datasets"


def upload_prefix(workspace_id: str, upload_id: str) -> str:
    """Return the prefix of all that has come of an upload in parts.

    Args:
        workspace_id: Id of the workspace.
        upload_id: Id of the upload.
    """
    return f"{workspace_id}/uploads/{upload_id}"


def upload_key(workspace_id: str, upload_id: str, part: str) -> str:
    """Return the key of one part of an upload. Each has a prefix of its own, so that it can be deleted alone.

    Args:
        workspace_id: Id of the workspace.
        upload_id: Id of the upload.
        part: Name of the part.
    """
    return f"{upload_prefix(workspace_id, upload_id)}/{part}/content"


def model_prefix(workspace_id: str, model_id: str) -> str:
    """Return the prefix of all files of a base model that lies in the object store.

    Args:
        workspace_id: Whose model it is.
        model_id: The model.
    """
    return f"{workspace_id}/models/{model_id}"


def model_key(workspace_id: str, model_id: str, sha256: str) -> str:
    """Return the key of one file of such a model.

    Args:
        workspace_id: Whose model it is.
        model_id: The model.
        sha256: Of the file, in hexadecimal digits.
    """
    return f"{model_prefix(workspace_id, model_id)}/{sha256}"


def audit_prefix(workspace_id: str, audit_id: str) -> str:
    """Return the prefix of all output files of an audit.

    Args:
        workspace_id: Id of the workspace.
        audit_id: Id of the audit.
    """
    return f"{workspace_id}/audits/{audit_id}"


def step_prefix(workspace_id: str, audit_id: str, attempt: int, step_key: str) -> str:
    """Return the prefix of the output files of one step of one attempt.

    Args:
        workspace_id: Id of the workspace.
        audit_id: Id of the audit.
        attempt: Number of the attempt, from 1.
        step_key: Key of the step, such as `train:1`.
    """
    return f"{audit_prefix(workspace_id, audit_id)}/{attempt}/{step_key.replace(':', '-')}"


def checkpoints_prefix(workspace_id: str, audit_id: str, step_key: str = "") -> str:
    """Return the prefix of the checkpoints of one step, of whatever attempt.

    Args:
        workspace_id: Id of the workspace.
        audit_id: Id of the audit.
        step_key: Key of the step, such as `train:1`; empty: of all steps.
    """
    return "/".join(filter(None, (audit_prefix(workspace_id, audit_id), "checkpoints", step_key.replace(":", "-"))))


def audit_key(workspace_id: str, audit_id: str, attempt: int, step_key: str, name: str) -> str:
    """Return the key of an output file of one step of one attempt.

    Args:
        workspace_id: Id of the workspace.
        audit_id: Id of the audit.
        attempt: Number of the attempt, from 1.
        step_key: Key of the step, such as `train:1`.
        name: Name of the file.
    """
    return f"{step_prefix(workspace_id, audit_id, attempt, step_key)}/{name}"


def export_prefix(workspace_id: str, export_id: str, attempt: int | None = None) -> str:
    """Return the prefix of what attempts at an export have written.

    Args:
        workspace_id: Id of the workspace.
        export_id: Id of the export.
        attempt: Number of the attempt, from 1; None: all attempts.
    """
    return "/".join([workspace_id, "exports", export_id, *([] if attempt is None else [str(attempt)])])


def export_key(workspace_id: str, export_id: str, attempt: int) -> str:
    """Return the key of an export's content, as one attempt has written it.

    Args:
        workspace_id: Id of the workspace.
        export_id: Id of the export.
        attempt: Number of the attempt, from 1.
    """
    return f"{export_prefix(workspace_id, export_id, attempt)}/content"
