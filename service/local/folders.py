"""Private folders and the length of socket paths."""

import sys
from pathlib import Path

from service.local.errors import StackError

MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of a Unix socket's path: `sun_path` less its end mark."""


def make_folder(path: Path) -> None:
    """Makes `path` and what is missing above it with mode 0700; an existing folder keeps its mode."""
    for folder in [*reversed(path.parents), path]:
        folder.mkdir(mode=0o700, exist_ok=True)


def private_folder(path: Path) -> None:
    """Makes `path` and gives it mode 0700, whatever it had."""
    make_folder(path)
    path.chmod(0o700)


def check_socket_path(path: Path) -> None:
    """Check that the system can bind and reach a Unix socket of this name.

    Raises:
        StackError: The path is too long.
    """
    length = len(bytes(path))
    if length > MAX_SOCKET_PATH:
        raise StackError(
            f"the data folder's path is too long for a Unix socket ({path} has {length} bytes, at most "
            f"{MAX_SOCKET_PATH} are possible): set FINETOOTH_DATA_DIR to a shorter path"
        )
