"""Folders of servers that tests start: in memory where there is enough, for a fresh database is 900 files on a disk."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")
NEEDED_BYTES = 4 << 30
"""Three test processes at a time, each with servers of less than 0.5 GiB, and as much again to spare."""


@contextmanager
def server_folder(prefix: str = "ft-") -> Iterator[Path]:
    """A folder with a short path (a Unix socket's name has at most 107 bytes), removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if _has_room(MEMORY) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_room(folder: Path) -> bool:
    """Whether servers can lie in it: a container's /dev/shm is small, and some machines run no program from there."""
    if not os.access(folder, os.W_OK):
        return False
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize >= NEEDED_BYTES and not found.f_flag & os.ST_NOEXEC
