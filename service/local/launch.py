"""Becomes another program that ends when its parent does: run as a script, before anything of ours is imported.

    python -ISs launch.py PARENT_PID SIGNAL UID GID PROGRAM [ARGUMENT ...]

On Linux the kernel sends SIGNAL to the program when the thread that started it dies, so that a killed parent
leaves nothing behind. UID -1 keeps the user. A program of its own rather than a `preexec_fn`, which is unsafe
in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""The number of this call in Linux's <sys/prctl.h>; Python has no name for it."""


def main(arguments: list[str]) -> None:
    """Never returns: executes the program, or exits with 127 and a line on stderr."""
    parent, death_signal, uid, gid = (int(argument) for argument in arguments[:4])
    program = arguments[4:]
    if uid != -1:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After the change of user, which clears it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)
    # Python ignores SIGPIPE, and an ignored signal would outlive the change of program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execv(program[0], program)  # noqa: S606  # a list, no shell
    except OSError as error:
        print(f"cannot start {program[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
