"""One child process: started in its own session, read as contract events, told to stop, and never left behind."""

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
from typing import IO

from pydantic import BaseModel, ValidationError

from service.contract.protocol import EVENT, Cancel, Event, Lease, SaveAndStop
from worker.process.launcher import Launcher, pipes

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 20
"""A longer line of stdout is no event."""
STDERR_TAIL_BYTES = 16 << 10
QUEUED_EVENTS = 1000
"""More than these wait in the pipe: a child that floods is slowed, and memory is not."""

_PASSED = {
    "HOME", "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "XDG_CACHE_HOME",
}  # fmt: skip
_PASSED_PREFIXES = (
    "PIP_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_", "TORCH_",
    "PYTORCH_",
)  # fmt: skip


def restricted_environment(environment: Mapping[str, str], cache_dir: Path) -> dict[str, str]:
    """What a child needs of our environment: no database, broker or key of the service is among it."""
    passed = {
        name: value for name, value in environment.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    }
    return {**passed, "FINETOOTH_CACHE_DIR": str(cache_dir.absolute()), "PYTHONUTF8": "1"}


@dataclass(frozen=True)
class Exited:
    """The child and all of its process group are gone. `code` is negative for a signal."""

    code: int


class ChildProcess:
    """A running child. Call `next` until it returns Exited; `kill` at any time."""

    def __init__(self, launcher: Launcher, folder: Path, environment: Mapping[str, str], *, ttl_s: float) -> None:
        """Starts it in and on the folder, to end by itself after `ttl_s` seconds unless `lease` says otherwise.

        Raises OSError if it cannot be started.
        """
        self._telling = threading.Lock()
        ours, theirs = pipes()
        self._stdin: int | None = ours.stdin
        try:
            # A child that is slow to read must not make its supervisor slow.
            os.set_blocking(ours.stdin, False)
            # Before it starts: were we frozen in between, it would never hear of its deadline.
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
        """Of the child, its session and its process group."""
        return self._process.pid

    def next(self, timeout: float) -> Event | Exited | None:
        """The next event; Exited after the last; None where nothing came in time."""
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
        """Lets it run for `ttl_s` seconds from now; it then ends by itself."""
        self._tell(Lease(ttl_s=ttl_s))

    def save_and_stop(self) -> None:
        """Tells it to leave a checkpoint and stop."""
        self._tell(SaveAndStop())

    def cancel(self) -> None:
        """Tells it to stop, then closes its stdin, which means the same."""
        self._tell(Cancel())
        self._close_stdin()

    def _tell(self, command: BaseModel) -> None:
        # A full pipe or a child that is gone: its deadline and our signals do the rest.
        with self._telling, suppress(OSError):
            if self._stdin is not None:
                os.write(self._stdin, command.model_dump_json().encode() + b"\n")

    def _close_stdin(self) -> None:
        with self._telling:
            if self._stdin is not None:
                os.close(self._stdin)
                self._stdin = None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to its whole process group."""
        # Once it is reaped, its number may name somebody else.
        with self._signalling:
            if not self._gone:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)

    def kill(self) -> None:
        """Ends it and its process group, and returns when they are gone."""
        self.signal(signal.SIGKILL)
        while not isinstance(self.next(1.0), Exited):
            self.signal(signal.SIGKILL)

    def stderr_tail(self) -> str:
        """The end of what it wrote to stderr. May hold sample text."""
        return b"".join(self._stderr)[-STDERR_TAIL_BYTES:].decode(errors="replace")

    def _wait(self, readers: Sequence[threading.Thread]) -> None:
        # The exit status stays with the system until the group is killed: its number cannot be another's by then.
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
    """Lines of at most MAX_LINE_BYTES; longer ones are left out."""
    too_long = False
    while line := stream.readline(MAX_LINE_BYTES):
        ended = line.endswith(b"\n")
        if ended and not too_long:
            yield line
        too_long = not ended
