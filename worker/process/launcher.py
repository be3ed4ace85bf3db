"""How the process of a child comes to be. Here: as a fresh interpreter; worker/process/fork_client.py forks one that
is warm."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

STEP_COMMAND = (sys.executable, "-P", "-m", "worker.child.run")
"""Runs the step of a folder. -P: nothing is imported from that folder."""


class Stdio(NamedTuple):
    """Three descriptors: what one side reads or writes as the child's stdin, stdout and stderr."""

    stdin: int
    stdout: int
    stderr: int

    def close(self) -> None:
        """Closes all three."""
        for descriptor in self:
            os.close(descriptor)


def pipes() -> tuple[Stdio, Stdio]:
    """The supervisor's ends of three pipes, and the child's. Raises OSError, and then has left none open."""
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
        """Also of its session and process group. Nobody else's before `wait` has returned."""

    def wait(self) -> int:
        """Its exit code, negative for a signal, once it is gone."""


class Launcher(Protocol):
    """Starts the processes of children."""

    def prepared(self, environment: Mapping[str, str], *, seconds: float) -> bool:
        """Makes ready for children with this environment; False: not ready after so many seconds, ask again."""

    def start(self, folder: Path, environment: Mapping[str, str], stdio: Stdio) -> Process:
        """Starts a child in and on `folder`, with these descriptors and no other. Raises OSError."""


class Spawner:
    """Starts `command FOLDER`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def prepared(self, environment: Mapping[str, str], *, seconds: float) -> bool:
        """There is nothing to prepare."""
        return True

    def start(self, folder: Path, environment: Mapping[str, str], stdio: Stdio) -> Process:
        """A new process with a new program. Raises OSError."""
        return subprocess.Popen(
            [*self._command, str(folder)],
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            cwd=folder,
            env=dict(environment),
            # Its own process group, so that what it starts ends with it and a terminal's Ctrl-C comes to us alone.
            start_new_session=True,
            umask=0o077,
        )
