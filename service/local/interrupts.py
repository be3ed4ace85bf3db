"""Ctrl-C where the process was started with SIGINT ignored, as `nohup` and a shell's background jobs do."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block, SIGINT raises KeyboardInterrupt even if the process has inherited it as ignored.

    Python leaves an ignored SIGINT alone, so that `kill -INT` would do nothing and nothing could be ended in order.
    A handler that somebody has set stays. In another thread than the main one it does nothing.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
