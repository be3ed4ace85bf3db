"""Ports of 127.0.0.1 for servers that tests start."""

import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any


def free_port() -> int:
    """Return a port that nothing listens on at the moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until_it_listens(port: int, process: "subprocess.Popen[Any]", said: Callable[[], object]) -> None:
    """Wait until the server that is starting accepts connections; fail with what it said if it ends before.

    Args:
        port: The server's.
        process: The server.
        said: Reads its messages.
    """
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, said()
            assert time.monotonic() < end, f"nothing listens on port {port}"
            time.sleep(0.05)
