"""The object store in a bucket of S3, or of a server that speaks its protocol.

What is written lies in an unnamed local file until it is whole; then it is sent in parts, and the bucket shows it once
the last one has come. Who may read and write is told by the environment variables of AWS (AWS_ACCESS_KEY_ID, ...).
"""

import io
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from service.settings import BadSettingsError

try:
    import s3fs
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError:
    raise BadSettingsError("FINETOOTH_OBJECT_URL names a bucket: pip install 'finetooth[s3]'") from None

from service.store.objects import ObjectMissingError, ObjectStore, ObjectStoreUnavailableError, key_parts
from service.store.patience import OF_A_WORKER, Patience

log = logging.getLogger(__name__)

PART_BYTES = 8 << 20
"""Bytes of one upload request; 10,000 of them make the largest object."""
PARTS_AT_ONCE = 4
"""Requests of one upload at a time; with PART_BYTES, the memory that an upload takes."""

READ_BYTES = 4 << 20
"""The fewest bytes that a request fetches."""


class S3Objects(ObjectStore):
    """Objects in a bucket, under a prefix. It connects with the first act."""

    def __init__(self, url: str, *, endpoint: str | None, spool: Path, patience: Patience = OF_A_WORKER) -> None:
        """`url` is s3://BUCKET or s3://BUCKET/PREFIX, `endpoint` the server (None: AWS), `spool` a local folder."""
        self._patience = patience
        self._url = url.rstrip("/")
        self._root = self._url.removeprefix("s3://")
        self._endpoint = endpoint
        self._spool = spool

    @cached_property
    def _bucket(self) -> Any:
        bucket = s3fs.S3FileSystem(
            endpoint_url=self._endpoint,
            config_kwargs={
                "connect_timeout": min(5, self._patience.answer_seconds),
                "read_timeout": self._patience.answer_seconds,
                "retries": {"max_attempts": self._patience.attempts, "mode": "standard"},
            },
            # Other processes write too: what a listing said a minute ago is no answer.
            use_listings_cache=False,
            skip_instance_cache=True,
            max_concurrency=PARTS_AT_ONCE,
            # Some servers of this protocol refuse parts of different sizes.
            fixed_upload_size=True,
        )
        bucket.retries = self._patience.repeats
        return bucket

    def _path(self, key: str) -> str:
        return "/".join([self._root, *key_parts(key)])

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        """Write an object into a local file without a name, which is sent once the block has ended well."""
        path = self._path(key)
        self._spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=self._spool) as file:
            yield file
            file.flush()
            file.seek(0)
            # By its descriptor: it has no name, so that nothing of it stays after a kill.
            self._send(f"/dev/fd/{file.fileno()}", path)

    def put_file(self, key: str, source: Path) -> None:
        """Send a file to the bucket.

        Args:
            key: The object's key.
            source: Path of the file.
        """
        self._send(str(source), self._path(key))

    def _send(self, source: str, path: str) -> None:
        with self._answers():
            self._bucket.put_file(source, path, chunksize=PART_BYTES)

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """Open an object for reading, with the position at its start.

        Raises:
            FileNotFoundError: There is no such object; callers get it as ObjectMissingError.
        """
        path = self._path(key)
        seconds = self._patience.object_seconds
        until = None if seconds is None else time.monotonic() + seconds
        with self._answers(missing=key):
            file = self._bucket.open(path, "rb", block_size=READ_BYTES, cache_type="readahead")
            if file.details["type"] != "file":
                raise FileNotFoundError(path)
        with io.BufferedReader(_Reader(self, file, until), READ_BYTES) as reader:
            yield reader

    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""
        path = self._path(key)
        try:
            with self._answers(missing=key):
                return bool(self._bucket.info(path)["type"] == "file")
        except ObjectMissingError:
            return False

    def all_keys(self) -> Iterator[str]:
        """Yield the keys of all objects."""
        with self._answers():
            found = self._bucket.find(f"{self._root}/")
        yield from (name.removeprefix(f"{self._root}/") for name in found)

    def check(self) -> None:
        """Ask the bucket for an object, which need not be there."""
        self.exists("check/of/readiness")

    def untouched(self, prefix: str, span: timedelta) -> list[str]:
        """Return the names right under a prefix beneath which nothing was written for a while.

        Args:
            prefix: Where to look, without a slash at its end.
            span: For how long nothing was written.
        """
        path = f"{self._path(prefix)}/"
        with self._answers():
            found = self._bucket.find(path, detail=True)
        before = datetime.now(UTC) - span
        # An unfinished object lies in a local file without a name, and in no bucket.
        last: dict[str, datetime] = {}
        for name, about in found.items():
            child = name.removeprefix(path).partition("/")[0]
            last[child] = max(last.get(child, about["LastModified"]), about["LastModified"])
        return sorted(child for child, at in last.items() if at < before)

    def delete_tree(self, prefix: str) -> bool:
        """Delete all objects below a prefix; False, and a warning in the log, if the bucket does not answer."""
        path = self._path(prefix)
        try:
            with self._answers():
                found = self._bucket.find(f"{path}/")
                if found:
                    self._bucket.rm(found)
        except ObjectStoreUnavailableError as error:
            log.warning("objects under %s are left: %s", prefix, error)
            return False
        return True

    @contextmanager
    def _answers(self, *, missing: str | None = None) -> Iterator[None]:
        """What the client raises, said in our words: its own may quote an access key."""
        try:
            yield
        except FileNotFoundError as error:
            if missing is not None:
                raise ObjectMissingError(missing) from None
            raise self._unavailable(error) from None
        except (OSError, BotoCoreError, ClientError) as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: Exception) -> ObjectStoreUnavailableError:
        return ObjectStoreUnavailableError(f"the object store {self._url} does not answer ({type(error).__name__})")


class _Reader(io.RawIOBase):
    """An object as Python's own kind of file, whose errors are ours."""

    def __init__(self, store: S3Objects, file: Any, until: float | None) -> None:
        """Reads of an open `file` of the `store`, and none more after time.monotonic() is `until`."""
        self._store = store
        self._file = file
        self._until = until

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with self._store._answers():
            if self._until is not None and time.monotonic() > self._until:
                raise TimeoutError
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
