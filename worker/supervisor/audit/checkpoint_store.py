"""Copies a training step's checkpoints to the object store and back. The child writes and reads them.

    {workspace}/audits/{id}/checkpoints/{step}/{attempt}/index.json       those that are complete, oldest first
    {workspace}/audits/{id}/checkpoints/{step}/{attempt}/{position}/...

An attempt writes under its own number alone, so a worker that lost its job overwrites nothing of the one that has it.
"""

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from service.contract.protocol import CHECKPOINTS_FOLDER, CHECKPOINTS_KEPT, CheckpointEvent
from service.lifecycle.jobs import Claim
from service.store.objects import ObjectMissingError, ObjectStore, checkpoints_prefix

log = logging.getLogger(__name__)

UPLOADS_FOLDER = "uploads"
"""A folder beside the child's own ones, with checkpoints that are not in the object store yet."""

INDEX_FILE = "index.json"
"""The object that lists the checkpoints of a step and their files."""


class _Stored(BaseModel):
    """A checkpoint that is complete in the object store."""

    model_config = ConfigDict(frozen=True)
    name: str
    files: tuple[str, ...]


class _Index(BaseModel):
    """The checkpoints of one attempt, oldest first. It is written after their files."""

    model_config = ConfigDict(frozen=True)
    checkpoints: tuple[_Stored, ...] = ()


def stage_checkpoints(objects: ObjectStore, claim: Claim, step_key: str, folder: Path) -> None:
    """Copy the last checkpoints of a step, of this attempt or those before, into the child's folder.

    What a later attempt has left comes first: it may have begun anew because the others were of no use.

    Args:
        objects: The store to copy from.
        claim: The audit, and the attempt up to which checkpoints are looked for.
        step_key: The key of the step.
        folder: The child's folder.

    Raises:
        ObjectStoreUnavailableError: The object store cannot be reached.
        OSError: The folder cannot be written.
    """
    staged = 0
    for attempt in range(claim.attempt, 0, -1):
        prefix = _prefix(claim, step_key, attempt)
        for stored in reversed(_index(objects, prefix).checkpoints):
            target = folder / CHECKPOINTS_FOLDER / stored.name
            if staged == CHECKPOINTS_KEPT or target.exists():
                continue
            target.mkdir(parents=True)
            for name in stored.files:
                objects.fetch(f"{prefix}/{stored.name}/{name}", target / name)
            staged += 1


def delete_checkpoints(objects: ObjectStore, claim: Claim, step_key: str) -> None:
    """Delete the checkpoints of a step, whatever attempt has written them.

    Args:
        objects: The object store.
        claim: What the worker holds the job by.
        step_key: Key of the step, such as `train:1`.
    """
    objects.delete_tree(checkpoints_prefix(claim.workspace_id, claim.subject_id, step_key))


class CheckpointUploads:
    """Copies a running child's newest checkpoint into the object store, in a thread of its own.

    If checkpoints come faster than they can be copied, those in between are left out. A failure is logged, and the
    next checkpoint is tried again, since the run does not depend on it.
    """

    def __init__(
        self, objects: ObjectStore, claim: Claim, step_key: str, folder: Path, *, ours: Callable[[], bool]
    ) -> None:
        """Start the thread. Nothing is written once `ours` returns False: the job is then another worker's."""
        self._objects, self._claim, self._step_key, self._ours = objects, claim, step_key, ours
        self._source, self._taken = folder / CHECKPOINTS_FOLDER, folder / UPLOADS_FOLDER
        self._prefix = _prefix(claim, step_key, claim.attempt)
        self._index = _Index()
        self._changed = threading.Condition()
        self._next: Path | None = None
        self._closing = False
        self._given_up = False
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def take(self, event: CheckpointEvent) -> None:
        """Take over a checkpoint that the child has left. Returns at once."""
        taken = self._taken / event.name
        try:
            self._taken.mkdir(exist_ok=True)
            # Moved, not copied: the child deletes old ones, and never reads what it has written.
            (self._source / event.name).rename(taken)
        except OSError as error:
            log.warning("a checkpoint was not taken: %s", type(error).__name__)
            return
        with self._changed:
            older, self._next = self._next, taken
            self._changed.notify()
        if older is not None:
            shutil.rmtree(older, ignore_errors=True)

    def close(self, seconds: float, *, wanted: bool) -> None:
        """Stop uploading, and wait until that is so.

        Args:
            seconds: How long to wait at most.
            wanted: Whether the newest checkpoint is still to be stored.
        """
        self._given_up = not wanted
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        self._given_up = True

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._closing)
                taken, self._next = self._next, None
            if taken is None:
                return
            try:
                self._store(taken)
            except Exception as error:
                log.warning("a checkpoint was not stored: %s", type(error).__name__)
            shutil.rmtree(taken, ignore_errors=True)

    def _store(self, taken: Path) -> None:
        files = sorted(file.name for file in taken.iterdir())
        for name in files:
            if not self._may_write():
                return
            self._objects.put_file(f"{self._prefix}/{taken.name}/{name}", taken / name)
        found = (*self._index.checkpoints, _Stored(name=taken.name, files=tuple(files)))
        kept = _Index(checkpoints=found[-CHECKPOINTS_KEPT:])
        if not self._may_write():
            return
        with self._objects.create(f"{self._prefix}/{INDEX_FILE}") as file:
            file.write(kept.model_dump_json().encode())
        self._index = kept
        # Their files go last: the index must never name what is not there.
        for stored in found[:-CHECKPOINTS_KEPT]:
            self._objects.delete_tree(f"{self._prefix}/{stored.name}")
        if len(kept.checkpoints) == CHECKPOINTS_KEPT == len(found):
            for attempt in range(1, self._claim.attempt):
                self._objects.delete_tree(_prefix(self._claim, self._step_key, attempt))

    def _may_write(self) -> bool:
        return self._ours() and not self._given_up


def _prefix(claim: Claim, step_key: str, attempt: int) -> str:
    return f"{checkpoints_prefix(claim.workspace_id, claim.subject_id, step_key)}/{attempt}"


def _index(objects: ObjectStore, prefix: str) -> _Index:
    try:
        with objects.open(f"{prefix}/{INDEX_FILE}") as file:
            return _Index.model_validate_json(file.read())
    except ObjectMissingError:
        return _Index()
