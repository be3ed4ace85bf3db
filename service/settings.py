"""Every knob of Finetooth: environment variables with the prefix FINETOOTH_."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self, get_args

import platformdirs
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Lane = Literal["gpu", "io"]
"""A worker process serves one, so that short jobs never wait behind an audit of hours."""

LANES: tuple[Lane, ...] = get_args(Lane)

LEASE_SECONDS = 90.0
CANCEL_SECONDS = 15.0
RETRY_SECONDS = 15.0

MISSED_BEATS = 3
"""So many heartbeats late, a worker counts as gone."""


class Settings(BaseSettings):
    """Read once a process, by `get_settings`. Defaults suit a laptop; nothing here is a default secret."""

    model_config = SettingsConfigDict(
        env_prefix="FINETOOTH_",
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
    """Redis URL (redis://, rediss:// or redis+socket://). None: the laptop stack brings its own Valkey."""
    object_dir: Path | None = None
    """Root folder of the object store. None: `data_dir`/objects."""
    object_url: str | None = None
    """s3://BUCKET/PREFIX: the object store is that bucket and no folder."""
    object_endpoint: str | None = None
    """http(s)://HOST:PORT of a server that speaks S3. None: AWS."""
    work_dir: Path | None = None
    """Where supervisors keep the folders of running children, and uploads on their way into a bucket.

    None: `data_dir`/work."""

    database_pool_size: int = Field(default=16, ge=2, le=200)
    """Connections a process. The API's thread limit is the same, so that no thread waits for a connection."""
    statement_timeout_ms: int = Field(default=5_000, ge=100)
    """Of the API's statements; workers use none."""

    max_waiting_requests: int = Field(default=500, ge=0)
    """Requests that the API holds until an audit changes: long-polls and event streams. 0: none.

    Each is an open socket, and 1,024 files are often all that a process may have."""

    max_upload_bytes: int = Field(default=20 * 2**30, ge=1)
    """Of one dataset, compressed or not."""
    max_decompression_ratio: int = Field(default=200, ge=2)
    max_line_bytes: int = Field(default=16 * 2**20, ge=1024)
    """Of one JSONL record."""
    max_dataset_rows: int = Field(default=20_000_000, ge=1)
    max_queued_audits: int = Field(default=200, ge=1)
    """Of one workspace; running ones do not count."""
    max_workspace_bytes: int = Field(default=2**40, ge=1)
    """Of all uploads of one workspace together."""
    max_workspace_rows: int = Field(default=500_000_000, ge=1)
    """Of all datasets of one workspace together."""
    max_workspace_probes: int = Field(default=10_000, ge=1)
    """Of one workspace."""
    parser_memory_bytes: int = Field(default=2 * 2**30, ge=2**29)
    """Address space of the child that parses an upload."""

    session_hours: int = Field(default=12, ge=1)
    """How long a browser stays signed in."""
    sign_in_link_minutes: int = Field(default=30, ge=1)

    poll_seconds: float = Field(default=1.0, gt=0)
    """How often a supervisor looks for a cancel."""
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

    allowed_hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    """Host headers answered; anything else is refused (DNS rebinding)."""

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
    """The process's settings."""
    return Settings()
