"""A `finetooth up` of its own data folder, as a process."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.waiting import wait_for

FINETOOTH = Path(sys.executable).with_name("finetooth")


def stack_environment(folder: Path, **settings: str) -> dict[str, str]:
    """Environment of commands that find the stack in `folder`, and no setting of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FINETOOTH_")}
    return {
        **kept,
        "FINETOOTH_DATA_DIR": str(folder / "data"),
        "FINETOOTH_CACHE_DIR": str(folder / "cache"),
        # Wide enough that no sample's text is cut.
        "COLUMNS": "200",
        **settings,
    }


def admin_key(folder: Path) -> str:
    """The key of the stack in `folder`."""
    return (folder / "data" / "admin.key").read_text().strip()


@contextlib.contextmanager
def running_stack(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Address of the stack, for the time of the block; what it prints is in up.log.

    `folder` has a short path: Unix sockets lie in it.
    """
    printed = folder / "up.log"
    with printed.open("w+") as log:
        up = subprocess.Popen([str(FINETOOTH), "up", "--port", "0"], env=environment, stdout=log, stderr=log)

        def address() -> str | None:
            assert up.poll() is None, printed.read_text()
            words = printed.read_text().partition("Finetooth runs at ")[2].split()
            return words[0] if len(words) > 5 else None

        try:
            wait_for(address, 180)
            url = address()
            assert url is not None
            yield url
        finally:
            up.send_signal(signal.SIGINT)
            try:
                up.wait(60)
            finally:
                up.kill()
