"""How the user types a further command of this program: a virtual environment may not be on the PATH."""

import shutil
import sys
from pathlib import Path

PROGRAM = "finetooth"
"""The name of the command that users type."""


def typed(arguments: str) -> str:
    """Write the command line with these arguments as it works in the shell that started this one.

    Args:
        arguments: What follows the program's name, such as `up`.

    Returns:
        `finetooth up` where the PATH leads to this program, else with the path that this one was started by.
    """
    started = Path(sys.argv[0])
    if started.name != PROGRAM:
        return f"{PROGRAM} {arguments}"
    found = shutil.which(PROGRAM)
    if found is not None and started.exists() and Path(found).samefile(started):
        return f"{PROGRAM} {arguments}"
    return f"{started} {arguments}"
