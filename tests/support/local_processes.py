"""What the tests of the laptop stack look at from outside: modes, sockets and processes."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
IGNORING_SIGINT = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
"""Starts the command that follows with SIGINT ignored, as `nohup` and a shell's background jobs do."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def with_children(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def listening_tcp(processes: list[psutil.Process]) -> list[str]:
    found = []
    for process in processes:
        # Postgres ends a backend whenever its client goes; one that has ended listens to nothing.
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections("inet")
            found += [f"{process.name()} {c.laddr}" for c in connections if c.status == psutil.CONN_LISTEN]
    return found


def processes_of(folder: Path) -> list[str]:
    """Every living process that names the folder in its arguments or environment, or stands in it."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        # The environment and folder of the API and of workers are kept from all but root.
        command, environment, cwd = "", "", ""
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(process.cmdline())
            environment = process.environ().get("FINETOOTH_DATA_DIR", "")
            cwd = process.cwd()
        if str(folder) in command or str(folder) in environment or (cwd and Path(cwd).is_relative_to(folder)):
            found.append(f"{process.pid} {command[:200]}")
    return found


def normal_user() -> list[str]:
    """A command that runs the Python which follows it as a user without rights."""
    if os.geteuid() != 0:
        return [sys.executable]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(version, path="/usr/bin:/usr/local/bin")):
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(python)]
        probe = [*command, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"]
        if python and subprocess.run(probe, capture_output=True, env=user_environment()).returncode == 0:
            return command
    return pytest.skip("no Python here that another user than root can run")


def user_environment() -> dict[str, str]:
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *packages])}
