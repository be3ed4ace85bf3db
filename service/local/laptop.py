"""All parts of the laptop stack in their order: Postgres, Valkey, schema, key, API, workers; stopped the other way."""

import errno
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Engine

from service.broker_address import kombu_address
from service.keys.secrets import create_sign_in_link
from service.lifecycle.jobs import requeue_orphans
from service.local.admin_key import admin_key_file, ensure_admin_key
from service.local.children import Child, ChildrenFile
from service.local.errors import PartEndedError, PortInUseError, StackError
from service.local.folders import private_folder
from service.local.lock import DataFolderLock
from service.local.postgres import EmbeddedPostgres
from service.local.valkey import EmbeddedValkey
from service.migration import NewerSchemaError, migrate
from service.secret_files import SUFFIX, secret_fields
from service.settings import LANES, PREFIX, Settings, ensure_folder
from service.store.engine import DatabaseUnreachableError, check_reachable, make_engine, make_sessions
from service.store.seed import ensure_workspace

HOST = "127.0.0.1"
"""The only address that the laptop's API listens on."""

READY_SECONDS = 120.0
"""How long the API may take to start, the database's migrations included."""

WORKER_STOP_SECONDS = 60.0
"""A worker first ends its training child."""
API_STOP_SECONDS = 10.0
"""How long the API may take to end."""

Report = Callable[[str], None]
"""Is told in a few words what is being done."""


def worker_command(lane: str) -> list[str]:
    """Return the command of the Celery worker of one queue: one job at a time, and no talk with other workers."""
    worker = [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "--loglevel", "INFO"]
    return [
        *worker,
        "--pool",
        "threads",
        "-c",
        "1",
        "-Q",
        lane,
        "-n",
        f"{lane}@%h",
        "--without-mingle",
        "--without-gossip",
    ]


class LaptopStack:
    """Everything on this machine in one data folder. After `start`, also one that failed, call `stop`."""

    def __init__(self, settings: Settings, *, report: Report = lambda _: None) -> None:
        """Raises StackError where the data folder's path is too long for a Unix socket."""
        self._report = report
        self.settings = _absolute(settings)
        data = self.settings.data_dir
        self.logs = data / "logs"
        self._lock = DataFolderLock(data)
        self._children_file = ChildrenFile(data / "children.json")
        self._postgres: EmbeddedPostgres | None = None
        self._valkey: EmbeddedValkey | None = None
        if self.settings.database_url is None:
            self._postgres = EmbeddedPostgres(data / "postgres", log=self.logs / "postgres.log")
        if self.settings.broker_url is None:
            self._valkey = EmbeddedValkey(data / "valkey", log=self.logs / "valkey.log")
        self._engine: Engine | None = None
        self._servers: list[Child] = []
        self._api: Child | None = None
        self._workers: list[Child] = []
        self._key_id = ""
        self.admin_key = ""
        """An API key with all rights."""
        self.url = ""
        """Where the API and the dashboard answer."""

    @property
    def admin_key_file(self) -> Path:
        """Where the admin key is kept, mode 0600."""
        return admin_key_file(self.settings)

    def start(self, port: int) -> None:
        """Starts all parts and waits until the API is ready. port 0: a free one.

        Raises:
            StackError: A part did not start.
            BadSettingsError: A folder cannot be used.
        """
        _require_worker()
        ensure_folder(self.settings, self.settings.data_dir)
        ensure_folder(self.settings, self.settings.cache_dir)
        self._lock.acquire()
        self._report("Checking for processes and files left by an earlier run")
        self._children_file.stop_leftovers()
        listener = _listen(port)
        with listener:
            own_objects = () if self.settings.object_url else (self.settings.objects,)
            for folder in (self.logs, self.settings.work, *own_objects):
                ensure_folder(self.settings, folder)
                if folder.is_relative_to(self.settings.data_dir):
                    private_folder(folder)
            self._start_servers()
            self._prepare_database()
            self.url = f"http://{HOST}:{listener.getsockname()[1]}{self.settings.root_path}"
            self._report("Starting the API")
            self._api = self._python_child(
                "API", [sys.executable, "-m", "service.local.api", str(listener.fileno())], "api.log", listener.fileno()
            )
        self._report("Starting the workers")
        for lane in LANES:
            self._workers.append(self._python_child(f"{lane} worker", worker_command(lane), f"worker-{lane}.log"))
        self._wait_until_ready(self._api)
        self._lock.publish(self.url)

    def sign_in_link(self) -> str:
        """A new link that signs one browser in, once."""
        assert self._engine is not None
        with make_sessions(self._engine).begin() as session:
            token = create_sign_in_link(session, key_id=self._key_id, minutes=self.settings.sign_in_link_minutes)
        return f"{self.url}/sign-in?token={token}"

    def check(self) -> None:
        """Check that no part has ended by itself.

        Raises:
            PartEndedError: One has.
        """
        for child in (*self._servers, self._api, *self._workers):
            if child is not None and child.exit_code is not None:
                raise PartEndedError(_ended(child))

    def stop(self) -> None:
        """Stops what runs, in order: workers, API, Valkey, Postgres. Safe to call at any time."""
        if not self._lock.held:
            return
        if self._workers:
            self._report("Stopping the workers")
            for worker in self._workers:
                worker.ask_to_stop()
            deadline = time.monotonic() + WORKER_STOP_SECONDS
            for worker in self._workers:
                worker.stop(max(0.0, deadline - time.monotonic()))
            self._workers.clear()
        if self._api is not None:
            self._report("Stopping the API")
            self._api.stop(API_STOP_SECONDS)
            self._api = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        self._servers.clear()
        if self._valkey is not None:
            self._valkey.stop()
        if self._postgres is not None:
            self._report("Stopping Postgres")
            self._postgres.stop()
        self._children_file.clear()
        self._lock.release()

    def _start_servers(self) -> None:
        urls = {}
        if self._postgres is not None:
            first = not self._postgres.folder.exists()
            self._report("Making the database (first start)" if first else "Starting Postgres")
            # Not in the children's file: a server left over is found by its data folder.
            self._servers.append(self._postgres.start())
            urls["database_url"] = SecretStr(self._postgres.url())
        if self._valkey is not None:
            self._report("Starting Valkey")
            self._servers.append(self._recorded(self._valkey.start()))
            urls["broker_url"] = SecretStr(self._valkey.url)
        else:
            _check_broker(self.settings)
        self.settings = self.settings.model_copy(update=urls)

    def _prepare_database(self) -> None:
        self._report("Bringing the schema up to date")
        assert self.settings.database_url is not None
        url = self.settings.database_url.get_secret_value()
        self._engine = make_engine(url, pooler=self.settings.database_pooler, application_name="finetooth up")
        try:
            check_reachable(self._engine)
        except DatabaseUnreachableError as error:
            raise StackError(str(error)) from error
        try:
            migrate(url)
        except NewerSchemaError as error:
            raise StackError(str(error)) from error
        with make_sessions(self._engine).begin() as session:
            workspace = ensure_workspace(session)
            self._key_id, self.admin_key = ensure_admin_key(
                session, workspace_id=workspace.id, path=self.admin_key_file
            )
            if self._postgres is not None:
                # Only where no other worker can be alive; a database given by URL may have workers elsewhere.
                requeue_orphans(session)

    def _python_child(self, name: str, command: list[str], log: str, descriptor: int | None = None) -> Child:
        child = Child(
            name,
            command,
            log=self.logs / log,
            cwd=self.settings.data_dir,
            environment=child_environment(self.settings, os.environ),
            pass_fds=() if descriptor is None else (descriptor,),
        )
        return self._recorded(child)

    def _recorded(self, child: Child) -> Child:
        self._children_file.add(child)
        return child

    def _wait_until_ready(self, api: Child) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            self.check()
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):  # noqa: S310  # our own http address
                    return
            except (OSError, urllib.error.URLError) as error:
                if time.monotonic() > deadline:
                    raise StackError(
                        f"the API is not ready after {READY_SECONDS:.0f} s (log: {api.log}): {error}"
                    ) from error
            time.sleep(0.1)


def child_environment(settings: Settings, ours: Mapping[str, str]) -> dict[str, str]:
    """The environment of the stack's processes.

    Args:
        settings: Are passed on, those that are not defaults.
        ours: The environment of this process, which they get too, but for the files that secrets were read from.

    Returns:
        All variables.
    """
    given = settings.model_fields_set | {"data_dir", "cache_dir", "database_url", "broker_url"}
    files = {f"{PREFIX}{name.upper()}{SUFFIX}" for name in secret_fields(Settings)}
    variables = {name: value for name, value in ours.items() if name not in files}
    if "train_on" not in given:
        variables[f"{PREFIX}TRAIN_ON"] = "any"  # a laptop has no GPU, and whoever starts it knows
    for name, value in settings.model_dump(mode="json", include=given, exclude_none=True).items():
        secret = getattr(settings, name)
        if isinstance(secret, SecretStr):
            variables[f"FINETOOTH_{name.upper()}"] = secret.get_secret_value()
        elif isinstance(value, str):
            variables[f"FINETOOTH_{name.upper()}"] = value
        else:
            variables[f"FINETOOTH_{name.upper()}"] = json.dumps(value)
    return variables


def _absolute(settings: Settings) -> Settings:
    """Its folders without regard to the working directory, which the children do not share."""
    folders = ("data_dir", "cache_dir", "object_dir", "work_dir")
    return settings.model_copy(
        update={name: path.expanduser().absolute() for name in folders if (path := getattr(settings, name)) is not None}
    )


def _require_worker() -> None:
    if any(find_spec(name) is None for name in ("torch", "transformers", "peft")):
        raise StackError("what trains is not installed: pip install 'finetooth[local,worker]'")


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} of {HOST} is in use: stop the program that listens there, or choose another with --port"
            ) from None
        raise StackError(
            f"cannot listen on port {port} of {HOST} ({error.strerror}): choose another with --port"
        ) from None
    return listener


def _check_broker(settings: Settings) -> None:
    from kombu import Connection

    assert settings.broker_url is not None
    options = {"socket_connect_timeout": 5, "socket_timeout": 5}
    try:
        url, options = kombu_address(settings.broker_url.get_secret_value(), options)
        with Connection(url, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, timeout=10)
    except Exception as error:
        # Not the message: it may quote the URL, password included.
        raise StackError(
            f"the broker of FINETOOTH_BROKER_URL cannot be reached ({type(error).__name__}): check the address, or "
            "unset it to use the embedded one"
        ) from None


def _ended(child: Child) -> str:
    code = child.exit_code
    how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
    lines = child.last_lines()
    return f"the {child.name} {how} (log: {child.log})" + (f"\n{lines}" if lines else "")
