"""One stack a data folder: the lock, and how others find the stack that holds it."""

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from service.local.errors import AlreadyRunningError
from service.local.folders import make_folder

NAME = "lock"
"""The name of the lock's file, which also tells who has it."""


@dataclass(frozen=True)
class Running:
    """The stack that holds a data folder."""

    pid: int
    url: str | None
    """None while it starts or stops."""


class DataFolderLock:
    """Held as long as a stack lives; the system drops it with the process, however that ends."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / NAME
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock, which ends with this process at the latest.

        Raises:
            AlreadyRunningError: Another process has it.
        """
        make_folder(self.path.parent)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            running = find_running(self.path.parent)
            by = f" (process {running.pid}{f', {running.url}' if running.url else ''})" if running else ""
            raise AlreadyRunningError(
                f"finetooth is already running on {self.path.parent}{by}: use that one, stop it, or set "
                "FINETOOTH_DATA_DIR to another folder"
            ) from None
        self._descriptor = descriptor
        self.publish(None)

    def publish(self, url: str | None) -> None:
        """Tells others where the stack answers."""
        assert self._descriptor is not None
        started = psutil.Process().create_time()
        text = json.dumps({"pid": os.getpid(), "started": started, "url": url}).encode()
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def release(self) -> None:
        """Lets the next stack start. The file stays: removing it would let two processes lock two files."""
        if self._descriptor is not None:
            os.truncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def find_running(data_dir: Path) -> Running | None:
    """The stack that runs on this data folder, or None."""
    for _ in range(3):
        try:
            entry = json.loads((data_dir / NAME).read_bytes())
            process = psutil.Process(entry["pid"])
            if abs(process.create_time() - entry["started"]) > 1 or process.status() == psutil.STATUS_ZOMBIE:
                return None
            return Running(pid=entry["pid"], url=entry["url"])
        except (OSError, psutil.Error):
            return None
        except ValueError:
            time.sleep(0.01)  # read between truncation and writing
    return None
