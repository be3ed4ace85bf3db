"""Fetches a model from the object store into the worker's cache, where the child loads it; every file is hashed.

The cache is by content, so models with the same files are fetched once, and workers of a machine may share it.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.contract.stored_models import StoredFile, cached_name
from service.store.objects import ObjectMissingError, model_key
from worker.process.shutdown import Reason
from worker.supervisor.audit.step_folder import StoredInput
from worker.supervisor.context import AttemptContext
from worker.supervisor.errors import InputMissingError, StoredModelError

log = logging.getLogger(__name__)

READ_BYTES = 8 << 20
"""Read at a time: the smaller, the sooner a cancel is heard."""


class _StoppedError(Exception):
    """The attempt has to end."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelFetch:
    """One attempt's fetching of one model."""

    def __init__(self, context: AttemptContext, model: StoredInput, show: Callable[[int, int], None]) -> None:
        """Fetch into the cache of the settings, and tell `show` how many bytes of how many have come."""
        self._context = context
        self._model = model
        self._show = show
        self._done = 0
        self._asked_at = 0.0

    def run(self) -> Reason | None:
        """Make sure that the model is in the cache, whole.

        Returns:
            Why the attempt has to stop before that; None: the model is there.

        Raises:
            InputMissingError: A file is not in the object store.
            StoredModelError: A file is not the one that was imported.
            ObjectStoreUnavailableError: The object store cannot be reached.
            OSError: The cache cannot be written.
        """
        cache = self._context.settings.cache_dir.absolute() / "models"
        folder = cache / cached_name(self._model.files.digest)
        if folder.is_dir():
            return None
        cache.mkdir(parents=True, exist_ok=True)
        try:
            with self._alone(cache / f"{folder.name}.lock"):
                if not folder.is_dir():  # nobody else has fetched it meanwhile
                    self._fetch(cache, folder)
        except _StoppedError as error:
            return error.reason
        return None

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Wait until no other worker of the machine fetches the model, and keep others from it for the block."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._go_on()
                    time.sleep(min(1.0, self._context.settings.poll_seconds))
            yield
        finally:
            os.close(descriptor)

    def _fetch(self, cache: Path, folder: Path) -> None:
        for left in cache.glob(f"{folder.name}.part-*"):
            shutil.rmtree(left, ignore_errors=True)  # by a worker that was killed: the lock is ours
        log.info("fetching the model %s from the object store", self._model.model_id)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"{folder.name}.part-") as scratch:
            whole = Path(scratch) / "model"
            whole.mkdir()
            for file in self._model.files.files:
                self._fetch_file(file, whole / file.name)
            whole.rename(folder)

    def _fetch_file(self, file: StoredFile, path: Path) -> None:
        key = model_key(self._context.claim.workspace_id, self._model.model_id, file.sha256)
        digest = hashlib.sha256()
        try:
            with self._context.objects.open(key) as source, path.open("wb") as target:
                while part := source.read(READ_BYTES):
                    digest.update(part)
                    target.write(part)
                    self._done += len(part)
                    self._go_on()
        except ObjectMissingError:
            raise InputMissingError(f"The model's file {file.name} is") from None
        if digest.hexdigest() != file.sha256:
            raise StoredModelError(file.name)

    def _go_on(self) -> None:
        """Tell now and then how far this is, and look whether the attempt has to stop. Raises _StoppedError."""
        if self._context.lease.lost:
            raise _StoppedError(Reason.LEASE_LOST)
        if time.monotonic() - self._asked_at < self._context.settings.poll_seconds:
            return
        self._asked_at = time.monotonic()
        self._show(self._done, self._model.files.bytes)
        reason = self._context.reason_to_stop()
        if reason is not None:
            raise _StoppedError(reason)
