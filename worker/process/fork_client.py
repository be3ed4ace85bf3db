"""The client of the fork server: starts children by forking a process that has imported what they need.

A forked child is a child of the supervisor, as a spawned one is. The fork server forks twice and the process in between
ends, so that the child is an orphan, which the kernel gives to the supervisor. The supervisor then reads its exit
status and signals its process group, and the end of the fork server has no consequence for the child.
"""

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from worker.process.launcher import STEP_COMMAND, Launcher, Process, Spawner, Stdio
from worker.process.prctl import adopting_orphans

log = logging.getLogger(__name__)

SERVER_COMMAND = (sys.executable, "-P", "-m", "worker.child.fork_server")
"""Runs the fork server. With -P nothing is imported from the working directory."""
TITLE_ROOM = 512
"""Bytes of the server's command line, which its children overwrite with their own titles."""
IMPORT_SECONDS = 120.0
"""A fork server that has not imported everything after this time is abandoned."""
REPLY_SECONDS = 10.0
"""A fork server that has not answered after this time is abandoned, and the child is spawned."""
RETRY_SECONDS = 600.0
"""How long children are spawned after a fork server was abandoned, before the next one is tried."""


def make_launcher() -> Launcher:
    """Return a launcher that forks where that is safe, which is on Linux, and spawns elsewhere."""
    spawner = Spawner(STEP_COMMAND)
    return ForkClient(spawner) if sys.platform == "linux" else spawner


class ForkClient:
    """Starts children through a fork server, which it keeps running. Spawns them if there is none."""

    def __init__(self, spawner: Spawner, server_command: Sequence[str] = SERVER_COMMAND) -> None:
        """Start no fork server yet: the first call of `prepared` or `start` does.

        Args:
            spawner: Starts children where no fork server is available.
            server_command: The command of the fork server.
        """
        self._spawner = spawner
        self._server_command = server_command
        self._server: _Server | None = None
        self._retry_at = 0.0
        self._changing = threading.Lock()

    def prepared(self, environment: Mapping[str, str], *, seconds: float) -> bool:
        """Start a fork server unless there is one with this environment, and wait for it.

        Args:
            environment: The environment of the children.
            seconds: How long to wait at most.

        Returns:
            False if the server is still importing. True if it is ready, or if there is none and children will be
            spawned.
        """
        with self._changing:
            server = self._ensure(environment)
            if server is None or server.wait_until_ready(seconds):
                return True
            if not server.refusal:
                return False
            log.warning("no fork server, so every child imports its libraries itself: %s", server.refusal)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._drop()
            return True

    def start(self, folder: Path, environment: Mapping[str, str], stdio: Stdio) -> Process:
        """Fork the child if the fork server is ready, otherwise spawn it.

        Args:
            folder: The folder that the child works on, which is also its working directory.
            environment: The environment of the child.
            stdio: The child's descriptors; it gets no others.

        Returns:
            The running process.

        Raises:
            OSError: The child cannot be started.
        """
        with self._changing:
            server = self._ensure(environment)
            if server is not None and server.wait_until_ready(0):
                try:
                    return server.fork(folder, stdio)
                except (OSError, ValueError) as error:
                    log.warning("the fork server failed (%s): the child is spawned", type(error).__name__)
                    self._drop()
        return self._spawner.start(folder, environment, stdio)

    def close(self) -> None:
        """End the fork server. Its children continue."""
        with self._changing:
            self._drop()

    def _ensure(self, environment: Mapping[str, str]) -> "_Server | None":
        if self._server is not None and (self._server.lost or self._server.environment != environment):
            self._drop()
        if self._server is None and time.monotonic() >= self._retry_at:
            try:
                self._server = _Server(self._server_command, environment)
            except OSError as error:
                log.warning("no fork server: %s", type(error).__name__)
                self._retry_at = time.monotonic() + RETRY_SECONDS
        return self._server

    def _drop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _Server:
    """One fork server, which is started with an environment and forks until it is closed."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start `command DESCRIPTOR ROOM`.

        Raises:
            OSError: The server cannot be started.
        """
        self._command = command
        self.environment = dict(environment)
        self.refusal = ""
        """Why it cannot be used; empty if it can be, or may be yet."""
        self._ready = False
        self._give_up_at = time.monotonic() + IMPORT_SECONDS
        self.pid = 0
        self._pidfd: int | None = None
        self._error: OSError | None = None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        started = threading.Event()
        # The kernel ends the server with the thread that started it, so this thread lives as long as the server.
        threading.Thread(target=self._keep, args=(theirs, started), name="fork-server", daemon=True).start()
        started.wait()
        theirs.close()
        if self._error is not None:
            self._control.close()
            raise self._error

    def _keep(self, theirs: socket.socket, started: threading.Event) -> None:
        try:
            process = subprocess.Popen(
                [*self._command, str(theirs.fileno()), "-" * TITLE_ROOM],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd="/",
                env=self.environment,
                start_new_session=True,
                umask=0o077,
            )
            self.pid = process.pid
            try:
                self._pidfd = os.pidfd_open(process.pid)
            except OSError:
                process.kill()
                process.wait()
                raise
        except OSError as error:
            self._error = error
            return
        finally:
            started.set()
        process.wait()

    @property
    def lost(self) -> bool:
        """Whether the server was ready once and has ended."""
        return self._ready and bool(select.select([self._control], [], [], 0)[0])

    def wait_until_ready(self, seconds: float) -> bool:
        """Wait at most `seconds` for all imports, and return whether they are done. Sets `refusal` if they failed."""
        if not self._ready and not self.refusal:
            try:
                said = self._receive(seconds)
            except TimeoutError:
                self.refusal = "it has not started in time" if time.monotonic() >= self._give_up_at else ""
            else:
                self._ready = "ready" in said
                self.refusal = "" if self._ready else said.get("refusal", "it has ended")
        return self._ready

    def fork(self, folder: Path, stdio: Stdio) -> "_Forked":
        """Fork a child of this process. If OSError or ValueError is raised, no child has done anything."""
        go, release = os.pipe()
        try:
            with adopting_orphans():
                socket.send_fds(self._control, [str(folder).encode()], [*stdio, go])
                said = self._receive(REPLY_SECONDS)
            if "pid" not in said:
                raise OSError(said.get("errno", 0), "the fork server has not forked")
            forked = _Forked(int(said["pid"]))
            os.waitid(os.P_PID, forked.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # ours, or ChildProcessError
            # The child begins only now. A child whose id never arrived here ends when this pipe is closed.
            with suppress(BrokenPipeError):  # It was killed already, as its status will show.
                os.write(release, b"\n")
            return forked
        finally:
            os.close(go)
            os.close(release)

    def _receive(self, seconds: float) -> dict[str, str]:
        """Return the server's next message, empty if the server has ended.

        Raises:
            TimeoutError: No message arrived within `seconds`.
            ValueError: The message is not JSON.
        """
        if not select.select([self._control], [], [], seconds)[0]:
            raise TimeoutError
        try:
            said = self._control.recv(4096)
        except ConnectionError:
            said = b""
        return dict(json.loads(said or "{}"))

    def close(self) -> None:
        """End the server at once. The children that it has forked continue."""
        self._control.close()
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = None


class _Forked:
    """A forked child of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        """Wait for its end; return its exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
