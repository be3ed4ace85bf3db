"""Linux system calls for which Python has no function."""

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36
_GET_CHILD_SUBREAPER = 37

_adopting = threading.Lock()


def end_with_parent() -> None:
    """Have the kernel end this process with SIGKILL when the thread that started it ends.

    Raises:
        OSError: The kernel refuses it.
    """
    _prctl(_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Make descendants whose parent ends during the block children of this process, not of init.

    Raises:
        OSError: The kernel refuses it.
    """
    with _adopting:
        before = ctypes.c_int()
        _prctl(_GET_CHILD_SUBREAPER, ctypes.byref(before))
        _prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
        try:
            yield
        finally:
            _prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(before.value))


def set_title(title: str) -> None:
    """Set what `ps` shows as this process's command line, cut to the length of the original one."""
    # The environment stored behind it stays in place (setproctitle would move it, and tools could not read it).
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = os.fsencode(title)[: end - start - 2] + b"\0"
    if len(text) + 1 < end - start:
        ctypes.memmove(start, text, len(text))
        # The kernel treats a line that does not end with NUL as a title, and shows it up to the first NUL.
        ctypes.memset(end - 1, ord(" "), 1)


def _prctl(option: int, argument: object) -> None:
    none = ctypes.c_ulong(0)
    if ctypes.CDLL(None, use_errno=True).prctl(option, argument, none, none, none) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
