"""Whether a process has ended, for tests that look at processes which are not their own children."""

import psutil


def has_ended(process: psutil.Process) -> bool:
    """True of a zombie too: an orphan stays one until the init process asks for it, which a container's may do late."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
