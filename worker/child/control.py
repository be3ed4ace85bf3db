"""What the supervisor tells the child on stdin, and the child's own deadline: no child outlives its supervisor.

Whoever holds the job renews its lease with the database and passes on how long it is good for. A supervisor that is
frozen or cut off passes nothing on, so the child ends by itself; one that was killed closes the pipe.
"""

import os
import select
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

import psutil
from pydantic import ValidationError

from service.contract.protocol import COMMAND, EXIT_STOPPED, Cancel, Lease, SaveAndStop


class StopRequest:
    """The wish that this child leaves its step so that another can go on with it; threads make and heed it.

    Before somebody has said that it will be heeded there is nothing to save, and the process ends at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heeded = False
        self._made = False

    def make(self) -> None:
        """From now on `made` is true; or there is nothing to save."""
        with self._lock:
            self._made = True
            if not self._heeded:
                stop("there is nothing to save yet")

    def will_be_heeded(self) -> None:
        """Whoever calls this looks at `made` from now on, or finishes the step soon."""
        with self._lock:
            self._heeded = True

    def made(self) -> bool:
        """Whether to save and stop."""
        return self._made


def obey(descriptor: int, request: StopRequest) -> NoReturn:
    """Follow the supervisor's commands until this process has to end. It runs in a thread of its own.

    Args:
        descriptor: A pipe from which commands are read, one a line.
        request: Told when the training has to stop or to save.
    """
    deadline: float | None = None
    unread = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([descriptor], [], [], left)
        # Looked at before reading: a child that was frozen itself must not live on by an old line in the pipe.
        if deadline is not None and time.monotonic() >= deadline:
            stop("the lease has run out")
        if not readable:
            continue
        # Before reading, too: a child that is frozen with a line in its hands must not count the lease from its thaw.
        now = time.monotonic()
        chunk = os.read(descriptor, 4096)
        if not chunk:
            stop("the supervisor is gone")
        *lines, unread = (unread + chunk).split(b"\n")
        for line in lines:
            try:
                command = COMMAND.validate_json(line)
            except ValidationError:
                stop("a command was not understood")
            match command:
                case Lease():
                    deadline = now + command.ttl_s
                case SaveAndStop():
                    request.make()
                case Cancel():
                    stop("cancelled")


def stop(why: str) -> NoReturn:
    """Ends this process and all that it has started, at once."""
    try:
        with suppress(psutil.Error):  # It ended meanwhile.
            for process in psutil.Process().children(recursive=True):
                process.kill()
        # Nobody may be there to read it: a killed supervisor's end of the pipe is closed.
        print(f"stopping: {why}", file=sys.stderr, flush=True)  # noqa: T201
    finally:
        os._exit(EXIT_STOPPED)
