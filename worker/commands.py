"""What the supervisor tells the child on stdin, and the child's own deadline: no child outlives its supervisor.

Whoever holds the job renews its lease with the database and passes on how long it is good for. A supervisor that is
frozen or cut off passes nothing on, so the child ends by itself; one that was killed closes the pipe.
"""

import os
import select
import sys
import time
from typing import NoReturn

import psutil
from pydantic import ValidationError

from service.contract import COMMAND, EXIT_STOPPED, Cancel, Lease


def obey(descriptor: int) -> NoReturn:
    """Follows the commands read from `descriptor` until this process has to end; runs in a thread of its own."""
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
                    deadline = time.monotonic() + command.ttl_s
                case Cancel():
                    stop("cancelled")


def stop(why: str) -> NoReturn:
    """Ends this process and all that it has started, at once."""
    print(f"stopping: {why}", file=sys.stderr, flush=True)  # noqa: T201
    try:
        for process in psutil.Process().children(recursive=True):
            process.kill()
    except psutil.Error:
        pass  # It ended meanwhile.
    finally:
        os._exit(EXIT_STOPPED)
