"""Runs one child process in a session of its own: reads its events, stops it, and never leaves it behind."""

import logging
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ValidationError

from service.contract.protocol import EVENT, Cancel, Event, Lease, SaveAndStop
from worker.process.launcher import Launcher, pipes

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 20
"""A line of stdout that is longer is not read as an event."""
STDERR_TAIL_BYTES = 16 << 10
"""How much of the end of stderr is kept: enough for a traceback."""
QUEUED_EVENTS = 1000
"""Further events wait in the pipe, so that a child that floods it is slowed down and our memory does not grow."""

_SYSTEM_VARIABLES = {"HOME", "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH"}  # fmt: skip
"""Variables of the system that any program needs."""
_LIBRARY_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_", "TORCH_", "PYTORCH_")
"""Prefixes of variables that configure numeric libraries and GPUs."""
_NETWORK_VARIABLES = {
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "XDG_CACHE_HOME",
}  # fmt: skip
"""Proxies, certificates and the cache folder, which a download needs."""
TRAIN_ON = "FINETOOTH_TRAIN_ON"
"""The variable that tells a child whether it may train on the CPU: gpu or any."""

_DOWNLOAD_PREFIXES = ("PIP_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_")
"""Prefixes of variables of package index and model hub, including their tokens."""


def offline_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment for a child that only reads files: it contains no secret."""
    passed = {
        name: value
        for name, value in environment.items()
        if name in _SYSTEM_VARIABLES or name.startswith(_LIBRARY_PREFIXES)
    }
    return {**passed, "PYTHONUTF8": "1"}


def downloading_environment(
    environment: Mapping[str, str], cache_dir: Path, *, train_on: Literal["gpu", "any"] = "any"
) -> dict[str, str]:
    """Return the part of an environment for a child that may download a model.

    It contains no address of a database or broker and no key of the service, only what the hub and proxies need.

    Args:
        environment: The environment of this process.
        cache_dir: Where the child keeps downloaded models.
        train_on: With gpu, a child that would train on the CPU fails.
    """
    passed = {
        name: value
        for name, value in environment.items()
        if name in _NETWORK_VARIABLES or name.startswith(_DOWNLOAD_PREFIXES)
    }
    return {
        **offline_environment(environment),
        **passed,
        "FINETOOTH_CACHE_DIR": str(cache_dir.absolute()),
        TRAIN_ON: train_on,
    }


@dataclass(frozen=True)
class Exited:
    """The child and all of its process group have ended. `code` is negative for a signal."""

    code: int


class ChildProcess:
    """A running child. Call `next` until it returns Exited; `kill` at any time."""

    def __init__(self, launcher: Launcher, folder: Path, environment: Mapping[str, str], *, ttl_s: float) -> None:
        """Start the child.

        Args:
            launcher: Starts the process.
            folder: The folder that the child works on, which is also its working directory.
            environment: The environment of the child.
            ttl_s: The child ends by itself after this many seconds, unless `lease` is called before.

        Raises:
            OSError: The child cannot be started.
        """
        self._telling = threading.Lock()
        ours, theirs = pipes()
        self._stdin: int | None = ours.stdin
        try:
            # A child that is slow to read must not make its supervisor slow.
            os.set_blocking(ours.stdin, False)
            # Written before the child starts: if this process froze in between, the child would have no deadline.
            self.lease(ttl_s)
            self._process = launcher.start(folder, environment, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._items: queue.Queue[Event | Exited] = queue.Queue(QUEUED_EVENTS)
        self._exited: Exited | None = None
        self._signalling = threading.Lock()
        self._gone = False
        self._stderr: deque[bytes] = deque()
        readers = [
            threading.Thread(target=self._read_events, args=(ours.stdout,), name="child-stdout", daemon=True),
            threading.Thread(target=self._read_stderr, args=(ours.stderr,), name="child-stderr", daemon=True),
        ]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._wait, args=(readers,), name="child-wait", daemon=True).start()

    @property
    def pid(self) -> int:
        """The id of the child, which is also that of its session and of its process group."""
        return self._process.pid

    def next(self, timeout: float) -> Event | Exited | None:
        """Return the next event, Exited after the last one, or None if none arrives within `timeout` seconds."""
        if self._exited is not None:
            return self._exited
        try:
            item = self._items.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return None
        if isinstance(item, Exited):
            self._exited = item
        return item

    def lease(self, ttl_s: float) -> None:
        """Let the child run for `ttl_s` seconds from now; it then ends by itself."""
        self._tell(Lease(ttl_s=ttl_s))

    def save_and_stop(self) -> None:
        """Tell the child to leave a checkpoint and stop."""
        self._tell(SaveAndStop())

    def cancel(self) -> None:
        """Tell the child to stop, then close its stdin, which means the same."""
        self._tell(Cancel())
        self._close_stdin()

    def _tell(self, command: BaseModel) -> None:
        # If the pipe is full or the child has ended, its deadline and our signals suffice.
        with self._telling, suppress(OSError):
            if self._stdin is not None:
                os.write(self._stdin, command.model_dump_json().encode() + b"\n")

    def _close_stdin(self) -> None:
        with self._telling:
            if self._stdin is not None:
                os.close(self._stdin)
                self._stdin = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child's whole process group."""
        # Once the child is reaped, its id may belong to another process.
        with self._signalling:
            if not self._gone:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)

    def kill(self) -> None:
        """End the child and its process group, and return when they have ended."""
        self.signal(signal.SIGKILL)
        while not isinstance(self.next(1.0), Exited):
            self.signal(signal.SIGKILL)

    def stderr_tail(self) -> str:
        """Return the end of what the child wrote to stderr. It may hold sample text."""
        return b"".join(self._stderr)[-STDERR_TAIL_BYTES:].decode(errors="replace")

    def _wait(self, readers: Sequence[threading.Thread]) -> None:
        # The exit status is left unread until the group is killed: until then no other process can get its id.
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        else:  # macOS before Python 3.13
            self._process.wait()
        self.signal(signal.SIGKILL)
        with self._signalling:
            self._gone = True
        code = self._process.wait()
        deadline = time.monotonic() + 5
        for reader in readers:
            # Only a process that left the group can still hold a pipe.
            reader.join(max(0.0, deadline - time.monotonic()))
        self._close_stdin()
        self._items.put(Exited(code))

    def _read_events(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as stdout:
            for line in _lines(stdout):
                try:
                    event = EVENT.validate_json(line)
                except ValidationError:
                    continue  # A library's print. Not logged, since it may hold sample text.
                self._items.put(event)

    def _read_stderr(self, descriptor: int) -> None:
        size = 0
        with os.fdopen(descriptor, "rb"):
            while chunk := os.read(descriptor, 4096):
                self._stderr.append(chunk)
                size += len(chunk)
                while size - len(self._stderr[0]) >= STDERR_TAIL_BYTES:
                    size -= len(self._stderr.popleft())


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines of at most MAX_LINE_BYTES, without those that are longer."""
    too_long = False
    while line := stream.readline(MAX_LINE_BYTES):
        ended = line.endswith(b"\n")
        if ended and not too_long:
            yield line
        too_long = not ended
