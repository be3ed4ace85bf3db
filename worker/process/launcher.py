"""Starts the processes of children. `Spawner` starts a new interpreter; see worker/process/fork_client.py for forks."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

STEP_COMMAND = (sys.executable, "-P", "-m", "worker.child.run")
"""Runs the step of a folder. With -P nothing is imported from that folder."""


class Stdio(NamedTuple):
    """The descriptors of one side of three pipes, for the child's stdin, stdout and stderr."""

    stdin: int
    stdout: int
    stderr: int

    def close(self) -> None:
        """Close all three descriptors."""
        for descriptor in self:
            os.close(descriptor)


def pipes() -> tuple[Stdio, Stdio]:
    """Return the supervisor's ends of three pipes, and the child's.

    Raises:
        OSError: A pipe cannot be opened; none is left open.
    """
    with ExitStack() as undo:
        made = []
        for _ in Stdio._fields:
            made.append(os.pipe())
            for descriptor in made[-1]:
                undo.callback(os.close, descriptor)
        undo.pop_all()
    (stdin, tell), (read_out, stdout), (read_err, stderr) = made
    return Stdio(tell, read_out, read_err), Stdio(stdin, stdout, stderr)


class Process(Protocol):
    """A child of this process that leads a session of its own."""

    @property
    def pid(self) -> int:
        """The id of the process, its session and its process group. No other process gets it before `wait` returns."""

    def wait(self) -> int:
        """Wait until the process has ended, and return its exit code, negative for a signal."""


class Launcher(Protocol):
    """Starts the processes of children."""

    def prepared(self, environment: Mapping[str, str], *, seconds: float) -> bool:
        """Prepare to start children with this environment.

        Args:
            environment: The environment of the children.
            seconds: How long to wait at most.

        Returns:
            False if it is not ready yet, and has to be called again.
        """

    def start(self, folder: Path, environment: Mapping[str, str], stdio: Stdio) -> Process:
        """Start a child.

        Args:
            folder: The folder that the child works on, which is also its working directory.
            environment: The environment of the child.
            stdio: The child's descriptors; it gets no others.

        Returns:
            The running process.

        Raises:
            OSError: The child cannot be started.
        """


class Spawner:
    """Starts children as new processes that run `command FOLDER`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def prepared(self, environment: Mapping[str, str], *, seconds: float) -> bool:
        """Return True, as there is nothing to prepare.

        Args:
            environment: The environment of the children; not used.
            seconds: How long to wait at most; not used.
        """
        return True

    def start(self, folder: Path, environment: Mapping[str, str], stdio: Stdio) -> Process:
        """Start a new process.

        Args:
            folder: The folder that the child works on, which is also its working directory.
            environment: The environment of the child.
            stdio: The child's descriptors; it gets no others.

        Returns:
            The running process.

        Raises:
            OSError: The child cannot be started.
        """
        return subprocess.Popen(
            [*self._command, str(folder)],
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            cwd=folder,
            env=dict(environment),
            # Its own process group: what the child starts ends with it, and Ctrl-C in a terminal reaches only us.
            start_new_session=True,
            umask=0o077,
        )
