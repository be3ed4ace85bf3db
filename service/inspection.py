"""Keeps a process's memory and environment from other processes of the same user (Linux; elsewhere nothing happens).

API and workers hold the address of the database with its password, and start children that read what strangers have
sent: uploads, models. A child is given none of it, but runs as the same user, and could read it in
`/proc/PARENT/environ` if somebody took it over.
"""

import ctypes
import logging
import sys

PR_SET_DUMPABLE = 4
"""The number of this call in Linux's <sys/prctl.h>; Python has no name for it."""

log = logging.getLogger(__name__)


def forbid_inspection() -> None:
    """From now on only root reads this process's environment and memory; a crash leaves no core file with them.

    A program that it starts is open again: the kernel forgets this at execve, and a bare fork keeps it.
    """
    if sys.platform != "linux":
        return
    none = ctypes.c_ulong(0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, none, none, none, none) != 0:
        log.warning("the system does not keep this process's environment from its children (%d)", ctypes.get_errno())
