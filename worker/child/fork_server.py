"""Imports what steps need and forks their children: `python -P -m worker.child.fork_server DESCRIPTOR ROOM`.

DESCRIPTOR is a Unix socket to the supervisor (worker/process/fork_client.py); ROOM is there to be overwritten by a
child's title. It is started with the very environment of its children, runs no thread and touches no device: what comes
after the fork is `worker.child.run` as in a fresh interpreter. It ends with the supervisor, and holds nothing but
imported code.
"""

import errno
import gc
import json
import os
import random
import select
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from service.contract.protocol import EXIT_STOPPED
from worker.child import run
from worker.process.prctl import end_with_parent, set_title

GO_SECONDS = 10.0
"""A child that was forked and is not told to begin within so long ends."""

WHILE_IMPORTING = {
    # pyarrow starts a thread for an allocator that it does not use; a fork would have to leave it behind.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    # A library that looks for a GPU counts them without CUDA, which could not be used after the fork any more.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


def main(control: socket.socket) -> NoReturn:
    """Serves until the supervisor is gone."""
    end_with_parent()
    if select.select([control], [], [], 0)[0]:
        os._exit(0)  # It has ended before that.
    set_title(f"{sys.executable} -P -m worker.child.fork_server")
    try:
        import_steps()
        reason = why_not_to_fork()
    except Exception as error:
        # Its message is not logged: a spawned child will have the same, and say more.
        reason = f"importing failed with {type(error).__name__}"
    if reason is not None:
        _tell(control, {"refusal": reason})
        os._exit(1)
    # Objects that live on are not looked at by the children's collector, which would copy their pages.
    gc.collect()
    gc.freeze()
    _tell(control, {"ready": True})
    while True:
        folder, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 4)
        if not folder:
            os._exit(0)
        said = fork(Path(os.fsdecode(folder)), descriptors, control)
        for descriptor in descriptors:
            os.close(descriptor)
        _tell(control, said)


def import_steps() -> None:
    """Imports what the steps of an audit import, as they do."""
    gc.disable()  # of no use while nothing but modules is made
    with _environment(WHILE_IMPORTING):
        run.leave_out(run.LEFT_OUT)
        import pyarrow.dataset  # noqa: F401  # pyarrow.parquet imports it when it reads the first file

        import worker.child.combine
        import worker.child.train  # noqa: F401


def why_not_to_fork() -> str | None:
    """What stands against forking this process; None: nothing. Itself forks: OpenBLAS then puts its threads away."""
    pid = os.fork()
    if pid == 0:
        os._exit(has_touched_a_gpu())
    if os.waitpid(pid, 0)[1]:
        return "importing has touched the GPU"
    threads = len(os.listdir("/proc/self/task"))
    return f"importing has left {threads - 1} threads" if threads > 1 else None


def has_touched_a_gpu() -> bool:
    """Whether CUDA is of no use in this process, which was forked, because it was used before the fork."""
    import torch

    return torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork()


def fork(folder: Path, descriptors: Sequence[int], control: socket.socket) -> Mapping[str, int]:
    """Fork a child that is nobody's child, so that the supervisor need not wait for it.

    Args:
        folder: The folder of the step.
        descriptors: Its stdin, stdout and stderr, and a pipe that says when it may go.
        control: The socket to the supervisor, which the child closes.

    Returns:
        What the child says once it is set up: its `pid`, or an `errno`.
    """
    told, telling = os.pipe()
    try:
        between = os.fork()
    except OSError as error:
        os.close(told)
        os.close(telling)
        return {"errno": error.errno or 0}
    if between == 0:
        try:
            if os.fork() == 0:
                control.close()
                os.close(told)
                become_child(folder, descriptors, telling)
        except OSError as error:
            os.write(telling, _encoded({"errno": error.errno}))
        finally:
            os._exit(0)
    os.close(telling)
    with os.fdopen(told, "rb") as said:
        text = said.read()
    # Now that it is gone, whoever adopts its orphan has done so.
    os.waitpid(between, 0)
    return dict(json.loads(text)) if text else {"errno": errno.ECHILD}


def become_child(folder: Path, descriptors: Sequence[int], telling: int) -> NoReturn:
    """Do what Popen does for a spawned child, and run the child's program.

    Args:
        folder: The folder of the step.
        descriptors: Its stdin, stdout and stderr, and a pipe that says when it may go.
        telling: A pipe for its `pid`, or an `errno`.
    """
    *stdio, go = descriptors
    try:
        try:
            os.setsid()
            os.umask(0o077)
            os.chdir(folder)
            for number, descriptor in enumerate(stdio):
                os.dup2(descriptor, number)
            set_title(f"{sys.executable} -P -m worker.child.run {folder}")
        except OSError as error:
            os.write(telling, _encoded({"errno": error.errno}))
            os._exit(1)
        os.write(telling, _encoded({"pid": os.getpid()}))
        os.close(telling)
        if not select.select([go], [], [], GO_SECONDS)[0] or not os.read(go, 1):
            os._exit(EXIT_STOPPED)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.argv = [run.__file__, str(folder)]
        fresh_randomness()
        gc.enable()
        run.run_and_exit(folder)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def fresh_randomness() -> None:
    """No two children draw alike by accident; what a step draws on purpose, it seeds."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()
    torch.default_generator.seed()


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    """These variables are set for the time of the block, where they are not already."""
    new = {name: value for name, value in added.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def _encoded(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said).encode()


def _tell(control: socket.socket, said: Mapping[str, Any]) -> None:
    try:
        control.send(_encoded(said))
    except OSError:
        os._exit(0)  # The supervisor is gone.


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[-2])))
