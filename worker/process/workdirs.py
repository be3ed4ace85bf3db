"""Creates the folders of running children. Each is locked while its supervisor lives, so that others can be deleted."""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def work_folder(root: Path, prefix: str) -> Iterator[Path]:
    """Create a new private folder for the duration of the block.

    Args:
        root: The folder in which it is created.
        prefix: The beginning of its name.

    Yields:
        The absolute path of the folder.

    Raises:
        OSError: The folder cannot be created.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _guarded(root):
        folder = Path(tempfile.mkdtemp(dir=root, prefix=prefix)).absolute()
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(root: Path) -> int:
    """Delete the folders under `root` whose supervisor has ended, and return their number.

    Raises:
        OSError: A folder cannot be read.
    """
    if not root.is_dir():
        return 0
    swept = 0
    with _guarded(root):
        for folder in root.iterdir():
            if folder.is_dir() and _is_free(folder):
                shutil.rmtree(folder, ignore_errors=True)
                swept += 1
    if swept:
        log.warning("deleted %d folders that killed workers have left in %s", swept, root)
    return swept


@contextmanager
def _guarded(root: Path) -> Iterator[None]:
    """Keep other processes from creating or deleting folders, so that a new folder is locked before they can see it."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_free(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
