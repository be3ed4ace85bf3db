"""Child processes in sessions of their own: started, recorded, stopped in order, and found again after a crash."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PLAIN_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
"""For programs that are not ours: no secret of ours, and no PGPORT or its like, which would change what they do."""

LAUNCH = Path(__file__).with_name("launch.py")
"""The program by which children are started; see there."""

START_TIME_TOLERANCE = 1.0
"""Seconds between two readings of one process's start time (the clock may be corrected in between)."""

DESCENDANTS_GRACE = 3.0
"""Seconds that what a child has started may still need after the child itself has ended."""


@dataclass(frozen=True)
class Account:
    """The user that a program runs as."""

    uid: int
    gid: int


class Child:
    """A running program that leads its own session, so that the terminal's Ctrl-C does not reach it before us.

    It also ends when the thread that started it does (Linux): start it from one that stays.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        orphan_signal: signal.Signals | None = None,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Starts `command` in `cwd` with both outputs appended to `log` (mode 0600).

        stop_signal asks it to end in order; orphan_signal (default: the same) is sent when we die.
        """
        self.name = name
        self.log = log
        self.stop_signal = stop_signal
        uid, gid = (account.uid, account.gid) if account else (-1, -1)
        launch = [sys.executable, "-ISs", LAUNCH, os.getpid(), int(orphan_signal or stop_signal), uid, gid]
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self.process = subprocess.Popen(
                [str(part) for part in (*launch, *command)],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if environment is None else dict(environment),
                start_new_session=True,
                umask=0o077,
                pass_fds=pass_fds,
            )
        finally:
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """Number of the program's process, which is that of its session and its process group as well."""
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self.process.poll()

    def last_lines(self, count: int = 5) -> str:
        """The end of its log, for an error message."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        return ""

    def ask_to_stop(self) -> None:
        """Sends the stop signal and returns at once."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)

    def stop(self, grace: float) -> bool:
        """Asks it to end, waits `grace` seconds, then kills its session and what it started in other sessions.

        False: it had to be killed.
        """
        descendants: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            descendants = psutil.Process(self.pid).children(recursive=True)
        self.ask_to_stop()
        try:
            self.process.wait(grace)
            in_order = True
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            in_order = False
        # A training child ends by itself at the end of its stdin.
        _, alive = psutil.wait_procs(descendants, timeout=DESCENDANTS_GRACE if in_order else 0)
        _kill(alive)
        kill_session(self.pid)
        return in_order


def kill_session(session: int) -> None:
    """SIGKILL to every process of the session, and waits until they are gone."""
    for _ in range(100):
        members = [process for process in psutil.process_iter() if _session(process) == session]
        if not members:
            return
        _kill(members)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=0.1)


def _session(process: psutil.Process) -> int | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return os.getsid(process.pid)
    except (psutil.Error, OSError):
        return None


class ChildrenFile:
    """Which children a stack has started, kept on disk for the start after a crash."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, child: Child) -> None:
        """Records a child that has just been started."""
        entry = {"name": child.name, "pid": child.pid, "started": psutil.Process(child.pid).create_time()}
        self._write([*self._read(), entry])

    def clear(self) -> None:
        """Forgets all: they have ended."""
        self.path.unlink(missing_ok=True)

    def stop_leftovers(self, grace: float = 5.0) -> list[str]:
        """Ends what an earlier, killed stack has left running; returns the names.

        A process counts as left over only if its start time is the recorded one: process ids are used again.
        """
        stopped = []
        for entry in reversed(self._read()):
            process = _process(entry["pid"], entry["started"])
            if process is None:
                continue
            with suppress(psutil.NoSuchProcess):
                process.terminate()
            _wait_until_gone(process, grace)
            kill_session(entry["pid"])
            stopped.append(entry["name"])
        self.clear()
        return stopped

    def _read(self) -> list[dict]:
        try:
            return json.loads(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return []

    def _write(self, entries: list[dict]) -> None:
        new = self.path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(entries))
        new.replace(self.path)


def _process(pid: int, started: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < START_TIME_TOLERANCE
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _wait_until_gone(process: psutil.Process, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            process.wait(0.05)
            return
        except psutil.TimeoutExpired:
            continue
        except psutil.NoSuchProcess:
            return
