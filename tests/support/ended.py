"""Whether a process has ended, for tests that look at processes which are not their own children."""

import psutil


def has_ended(process: psutil.Process) -> bool:
    """True of a zombie too: an orphan stays one until the init process asks for it, which a container's may do late."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def pid_has_ended(pid: int) -> bool:
    """The same of a process that is known by its number alone."""
    try:
        return has_ended(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True
