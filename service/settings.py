"""Every knob of Finetooth: environment variables with the prefix FINETOOTH_."""

import json
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Literal, NoReturn, Self, get_args

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from service.broker_address import checked_address
from service.inspection import forbid_inspection
from service.secret_files import BadSettingsError, SecretFiles
from service.sign_in_settings import SignInSettings

Lane = Literal["gpu", "io"]
"""The queue that a job waits in; columns of the database and arguments call it `lane`.

A worker process serves one, so that short jobs never wait behind an audit of hours.
"""

LANES: tuple[Lane, ...] = get_args(Lane)
"""All queues."""

PREFIX = "FINETOOTH_"
"""How the environment variable of every setting begins."""

LEASE_SECONDS = 90.0
"""A worker that has not renewed its lease for this long loses its job."""

CANCEL_SECONDS = 15.0
"""How long a worker has to stop a job that was cancelled, before it loses it."""

RETRY_SECONDS = 15.0
"""How long a job waits after a failure before it is tried again."""

MISSED_BEATS = 3
"""How many heartbeats late a worker counts as gone."""


class Settings(SignInSettings):
    """Read once a process, by `get_settings`. Defaults suit a laptop; nothing here is a default secret."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # `NAME=` in a file of settings means: not set
        extra="ignore",
        hide_input_in_errors=True,  # an error's message ends up in a log
    )

    data_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("finetooth")))
    """The laptop stack's databases, objects, keys and job folders."""
    cache_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_cache_dir("finetooth")))
    """Converted models; may be deleted at any time."""

    database_url: SecretStr | None = None
    """SQLAlchemy URL (postgresql+psycopg://...). None: the laptop stack brings its own Postgres."""
    broker_url: SecretStr | None = None
    """Redis URLs, as service.broker_address has them. None: the laptop stack brings its own Valkey."""
    admin_key: SecretStr | None = None
    """The first admin key, made elsewhere. None: one is made where no admin key works, and lies in a file."""
    object_dir: Path | None = None
    """Root folder of the object store. None: `data_dir`/objects."""
    object_url: str | None = None
    """s3://BUCKET/PREFIX: the object store is that bucket and no folder."""
    object_endpoint: str | None = None
    """http(s)://HOST:PORT of a server that speaks S3. None: AWS."""
    work_dir: Path | None = None
    """Where supervisors keep the folders of running children, and uploads on their way into a bucket.

    None: `data_dir`/work."""

    database_pooler: Literal["session", "transaction"] = "session"
    """Whether a pooler between us and Postgres pools transactions. session: it does not, or there is none."""
    database_pool_size: int = Field(default=16, ge=2, le=200)
    """Connections a process. The API's thread limit is the same, so that no thread waits for a connection."""
    statement_timeout_ms: int = Field(default=5_000, ge=100)
    """How long a statement of the API may take; workers have no such limit."""

    max_waiting_requests: int = Field(default=500, ge=0)
    """Requests that the API holds until an audit changes: long-polls and event streams. 0: none.

    Each is an open socket, and 1,024 files are often all that a process may have."""

    max_upload_bytes: int = Field(default=20 * 2**30, ge=1)
    """The most bytes of one dataset, compressed or not."""
    max_decompression_ratio: int = Field(default=200, ge=2)
    max_line_bytes: int = Field(default=16 * 2**20, ge=1024)
    """The most bytes of one JSONL record."""
    max_dataset_rows: int = Field(default=20_000_000, ge=1)
    max_queued_audits: int = Field(default=200, ge=1)
    """How many audits one workspace may have queued; running ones do not count. A workspace may have its own limit."""
    max_running_audits: int | None = Field(default=None, ge=1)
    """How many audits of one workspace run at once; None: any number. A workspace may have its own limit."""
    max_workspace_bytes: int = Field(default=2**40, ge=1)
    """How many bytes of uploads, recordings and exports one workspace may store. A workspace may have its own limit."""
    max_workspace_rows: int = Field(default=500_000_000, ge=1)
    """How many samples all datasets of one workspace may have together."""
    max_workspace_uploads: int = Field(default=100, ge=1)
    """How many unfinished uploads in parts one workspace may have."""
    upload_hours: int = Field(default=24, ge=1, le=24 * 365)
    """How long an upload in parts is kept after its last part."""
    max_workspace_probes: int = Field(default=10_000, ge=1)
    """How many probes one workspace may have."""
    max_workspace_exports: int = Field(default=1_000, ge=1)
    """How many exports one workspace may have, finished ones among them until they are deleted."""
    max_idempotency_records: int = Field(default=10_000, ge=1)
    """How many answers to requests with an Idempotency-Key are kept of one workspace; each for a day."""
    max_idempotency_bytes: int = Field(default=2**30, ge=1)
    """How many bytes these answers may have together."""
    parser_memory_bytes: int = Field(default=2 * 2**30, ge=2**29)
    """Address space of the child that parses an upload."""

    session_hours: int = Field(default=12, ge=1)
    """How long a browser stays signed in."""
    sign_in_link_minutes: int = Field(default=30, ge=1)
    audit_log_days: int = Field(default=365, ge=1, le=36_525)
    """How long an entry of the audit log is kept."""

    dataset_days: int | None = Field(default=None, ge=1, le=36_525)
    """How long a dataset is kept after its upload, while no audit stands on it. None: until somebody deletes it."""
    recording_days: int | None = Field(default=None, ge=1, le=36_525)
    """How long the recordings of an audit are kept after its end; its results stay. None: as long as the audit."""
    export_days: int | None = Field(default=None, ge=1, le=36_525)
    """How long an export is kept after its end. None: as long as its audit."""
    audit_days: int | None = Field(default=None, ge=1, le=36_525)
    """How long an audit is kept after its end, with all that hangs on it. None: until somebody deletes it."""

    poll_seconds: float = Field(default=1.0, gt=0)
    """How often a worker looks: a busy one for a cancel, an idle one for jobs that nobody has woken it for."""
    lease_seconds: float = Field(default=LEASE_SECONDS, gt=0)
    """For how long a worker has a job without a word to the database; it renews the lease at a third of it."""
    cancel_seconds: float = Field(default=CANCEL_SECONDS, gt=0)
    """How long a worker may take to stop a cancelled audit before it loses it."""
    retry_seconds: float = Field(default=RETRY_SECONDS, gt=0)
    """From a first failure to the next attempt; four times as long after the second."""
    reconcile_seconds: float = Field(default=5.0, gt=0)
    """How often one of all processes takes back jobs whose lease has run out and sends the wake-ups that are due."""
    heartbeat_seconds: float = Field(default=10.0, gt=0)
    """How often a worker says that it is alive; after three times as long it counts as gone."""
    checkpoint_seconds: float = Field(default=300.0, ge=0)
    """Between two checkpoints of a training run, so at most about this much work is lost; 0: one after every step."""
    findings_top: int = Field(default=200, ge=0)
    """Beside all flagged samples, the text of this many top-ranked ones is kept in the database."""

    log_format: Literal["auto", "text", "json"] = "auto"
    """auto: text on a terminal, lines of JSON elsewhere."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ("127.0.0.1", "localhost", "[::1]")
    """Host headers answered; anything else is refused (DNS rebinding)."""

    train_on: Literal["gpu", "any"] = "gpu"
    """What a worker of the queue gpu trains on. gpu: it does not start without one. any: else on the CPU."""

    root_path: str = ""
    """Under which path of its host a proxy serves us, such as /finetooth; empty: the host is ours alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take a setting from arguments, or else from the environment, or else from a file that the environment names.

        Args:
            settings_cls: The class of the settings.
            init_settings: Reads arguments.
            env_settings: Reads the environment.
            dotenv_settings: Reads a file .env, which is not used.
            file_secret_settings: Reads a folder of secrets, which is not used.
        """
        return init_settings, env_settings, SecretFiles(settings_cls)

    @field_validator("root_path")
    @classmethod
    def _path(cls, path: str) -> str:
        path = path.rstrip("/")
        if not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", path):
            raise ValueError("is a path that begins with /, such as /finetooth")
        return path

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not _is_postgres(url.get_secret_value()):
            raise ValueError("is no address of a Postgres: write postgresql+psycopg://USER:PASSWORD@HOST/NAME")
        return url

    @field_validator("broker_url")
    @classmethod
    def _redis(cls, url: SecretStr | None) -> SecretStr | None:
        return url if url is None else SecretStr(checked_address(url.get_secret_value()))

    @field_validator("admin_key")
    @classmethod
    def _key(cls, key: SecretStr | None) -> SecretStr | None:
        # Its checksum is looked at where it is used.
        if key is not None and not re.fullmatch("ft_[0-9A-Za-z]{28}", key.get_secret_value()):
            raise ValueError("is no key: make one with `python -m service.bootstrap generate-key`")
        return key

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _list_of_hosts(cls, hosts: Any) -> Any:
        if not isinstance(hosts, str):
            return hosts
        try:
            found = json.loads(hosts)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(host, str) for host in found):
            raise ValueError('is a JSON list of host names, such as ["127.0.0.1", "audits.example.org"]')
        return found

    @model_validator(mode="after")
    def _one_object_store(self) -> Self:
        if self.object_url is None:
            if self.object_endpoint is not None:
                raise ValueError("FINETOOTH_OBJECT_ENDPOINT goes with FINETOOTH_OBJECT_URL")
            return self
        if self.object_dir is not None:
            raise ValueError("set FINETOOTH_OBJECT_DIR or FINETOOTH_OBJECT_URL, not both")
        # Credentials in an address end up in logs; botocore reads them from the environment.
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.=-]+)*/?", self.object_url):
            raise ValueError("FINETOOTH_OBJECT_URL is s3://BUCKET or s3://BUCKET/PREFIX, without credentials")
        if not re.fullmatch(r"https?://[^/@?#]+/?", self.object_endpoint or "https://aws"):
            raise ValueError("FINETOOTH_OBJECT_ENDPOINT is http(s)://HOST or http(s)://HOST:PORT, without credentials")
        return self

    @property
    def objects(self) -> Path:
        """Root folder of the object store."""
        return self.object_dir or self.data_dir / "objects"

    @property
    def work(self) -> Path:
        """Folder of running children's folders."""
        return self.work_dir or self.data_dir / "work"

    @property
    def models(self) -> Path:
        """Folder of converted models."""
        return self.cache_dir / "models"


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process.

    Raises:
        BadSettingsError: A setting is missing or wrong.
    """
    try:
        return Settings()
    except ValidationError as error:
        # Without the input: pydantic would quote it, and it may be a password.
        problems = error.errors(include_input=False, include_url=False)
        raise BadSettingsError("; ".join(_in_words(problem) for problem in problems)) from None


def settings_or_exit() -> Settings:
    """The process's settings, for a program's start, which from now on keeps them from its children.

    Where one is wrong, a line says which, and the program ends with code 2.
    """
    forbid_inspection()
    try:
        return get_settings()
    except BadSettingsError as error:
        refuse_to_start(str(error))


def refuse_to_start(reason: str) -> NoReturn:
    """Ends the program with code 2 and one line on stderr."""
    print(f"finetooth: {reason}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def ensure_folder(settings: Settings, folder: Path) -> None:
    """Makes one of the settings' folders, and what is missing above it, with mode 0700; tries whether it takes a file.

    Args:
        settings: Where the folder's path comes from.
        folder: `data_dir`, `cache_dir`, `objects`, `work` or what lies in one of them.

    Raises:
        BadSettingsError: It does not.
    """
    try:
        for one in [*reversed(folder.parents), folder]:
            one.mkdir(mode=0o700, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise BadSettingsError(f"{_variable_of(settings, folder)}: {folder} is no folder") from None
    except OSError as error:
        name = _variable_of(settings, folder)
        raise BadSettingsError(f"{name}: {folder} is no folder that can be written to: {error.strerror}") from None


def _variable_of(settings: Settings, folder: Path) -> str:
    for name in ("object_dir", "work_dir", "cache_dir"):
        given = getattr(settings, name)
        if given is not None and folder.is_relative_to(given):
            return f"{PREFIX}{name.upper()}"
    return f"{PREFIX}DATA_DIR"


def _in_words(problem: Mapping[str, Any]) -> str:
    kind, limits = problem["type"], problem.get("ctx", {})
    if not problem["loc"]:
        return str(limits["error"])  # of several together; it names them
    name = f"{PREFIX}{str(problem['loc'][0]).upper()}"
    match kind:
        case "value_error":
            return f"{name} {limits['error']}"
        case "int_parsing" | "int_parsing_size" | "int_from_float" | "int_type":
            return f"{name} is a whole number"
        case "float_parsing" | "float_type" | "finite_number":
            return f"{name} is a number"
        case "greater_than_equal":
            return f"{name} is at least {limits['ge']}"
        case "greater_than":
            return f"{name} is more than {limits['gt']}"
        case "less_than_equal":
            return f"{name} is at most {limits['le']}"
        case "string_pattern_mismatch":
            return f"{name} does not look as it should: {limits['pattern']}"
        case "string_too_long":
            return f"{name} has at most {limits['max_length']} characters"
        case "literal_error":
            return f"{name} is one of {limits['expected']}"
        case _:
            return f"{name}: {problem['msg']}"


def _is_postgres(url: str) -> bool:
    if not url.startswith("postgresql+psycopg://"):
        return False
    # Imported here: the command line takes no database in most of its uses.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url)
    except (ArgumentError, ValueError):
        return False
    return True
