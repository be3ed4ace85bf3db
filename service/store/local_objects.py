"""The object store in a local folder. An object is written beside its place, flushed to disk and renamed."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from service.store.objects import ObjectMissingError, ObjectStore, ObjectStoreUnavailableError, key_parts

log = logging.getLogger(__name__)


class LocalObjects(ObjectStore):
    """Objects in a local folder, private to its owner."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, key: str) -> Path:
        """Return where an object lies or would lie."""
        return self._root.joinpath(*key_parts(key))

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        """Write an object beside its place, and put it there once the block has ended well."""
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

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """Open an object for reading, with the position at its start.

        Raises:
            ObjectMissingError: There is no such object.
        """
        try:
            file = self.path(key).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissingError(key) from None
        with file:
            yield file

    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""
        return self.path(key).is_file()

    def all_keys(self) -> Iterator[str]:
        """Yield the keys of all objects, in no order."""
        for folder, _, names in os.walk(self._root):
            # What is being written has a name with a dot, as no key does that ids make.
            for name in names:
                if not name.startswith("."):
                    yield Path(folder, name).relative_to(self._root).as_posix()

    def check(self) -> None:
        """Check that the folder is there.

        Raises:
            ObjectStoreUnavailableError: The folder is missing.
        """
        if not self._root.is_dir():
            raise ObjectStoreUnavailableError(f"{self._root} is no folder")

    def untouched(self, prefix: str, span: timedelta) -> list[str]:
        """Return the names right under a prefix beneath which nothing was written for a while.

        Args:
            prefix: Where to look, without a slash at its end.
            span: For how long nothing was written.
        """
        before = time.time() - span.total_seconds()
        try:
            children = list(self.path(prefix).iterdir())
        except FileNotFoundError:
            return []
        return sorted(child.name for child in children if _last_write(child) < before)

    def delete_tree(self, prefix: str) -> bool:
        """Delete all objects below a prefix."""
        whole = True

        def report(_function: object, _path: str, error: tuple[object, BaseException, object]) -> None:
            nonlocal whole
            if not isinstance(error[1], FileNotFoundError):
                whole = False
                log.warning("objects under %s are left: %s", prefix, type(error[1]).__name__)

        shutil.rmtree(self.path(prefix), onerror=report)
        return whole


def _last_write(top: Path) -> float:
    """When the folder or anything in it last changed, in seconds since the epoch; now, where it is being deleted."""
    try:
        return max(path.stat().st_mtime for path in (top, *top.rglob("*")))
    except FileNotFoundError:
        return time.time()
