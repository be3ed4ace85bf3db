"""Copies an upload without some of its lines. All else stays the same, line ends and byte order mark too."""

import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from service.contract.failure import ErrorCode, Failure
from worker.supervisor.errors import InputMissingError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK_BYTES = 1 << 20
"""Bytes that are read at a time."""

LINE_ENDS = (b"\n", b"\r\n", b"\r", b"")
"""What may follow a record: the last line needs no end, and a lone carriage return there is none of its record."""

DECODERS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda file: file,
    "gzip": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    "zstd": lambda file: zstd.ZstdFile(file, mode="rb"),
}
"""By `datasets.encoding`: from the stored file to one that reads as bytes of the upload's text."""


class OriginalChangedError(InputMissingError):
    """The stored original is not the file that was uploaded."""

    def __init__(self) -> None:
        super().__init__("The upload as it came is")
        self.failure = Failure(
            code=ErrorCode.INPUT_MISSING,
            message="The stored original is not the file that was uploaded: its SHA-256 differs.",
            hint="Somebody has changed the object store. Upload the dataset again.",
        )


@contextmanager
def open_original(stored: IO[bytes], *, encoding: str, sha256: str) -> Iterator[IO[bytes]]:
    """Decompress the upload, to be read once from its start to its end.

    Args:
        stored: The stored original.
        encoding: How it is compressed; a key of DECODERS.
        sha256: The SHA-256 of the file that was uploaded.

    Yields:
        A file that reads as bytes of the upload's text.

    Raises:
        OriginalChangedError: At the end of the block, if the file is not the one that was uploaded.
    """
    hashed = _Hashed(stored)
    with io.BufferedReader(hashed, BLOCK_BYTES) as raw:
        try:
            yield DECODERS[encoding](raw)
        except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError):
            raise OriginalChangedError from None
        while raw.read(BLOCK_BYTES):
            pass
        if hashed.sha256 != sha256:
            raise OriginalChangedError


class LineCutter:
    """Copies a file from its start to its end, leaving lines out."""

    def __init__(self, source: IO[bytes], write: Callable[[bytes], object], tick: Callable[[], None]) -> None:
        """Call `write` with every piece of the copy, and `tick` at least once per block; what they raise ends it."""
        self._source = source
        self._write = write
        self._tick = tick
        self._at = 0

    def leave_out(self, start: int, length: int) -> None:
        """Leave out one record with the end of its line. Records have to come in the order of the file.

        Args:
            start: The offset of the record's first byte.
            length: How many bytes it has, without the end of its line.

        Raises:
            OriginalChangedError: These bytes are not a whole line.
        """
        self._pass(start - self._at, self._write)
        self._pass(length, lambda _: None)
        end = self._source.readline(3)
        if end not in LINE_ENDS:
            raise OriginalChangedError
        self._at += len(end)

    def copy_to(self, offset: int) -> None:
        """Copy what comes before that byte, if it has not been passed yet."""
        if offset > self._at:
            self._pass(offset - self._at, self._write)

    def finish(self) -> None:
        """Copy the rest of the file."""
        while block := self._source.read(BLOCK_BYTES):
            self._tick()
            self._write(block)

    def _pass(self, left: int, to: Callable[[bytes], object]) -> None:
        if left < 0:
            raise OriginalChangedError
        while left:
            self._tick()
            block = self._source.read(min(left, BLOCK_BYTES))
            if not block:
                raise OriginalChangedError
            to(block)
            self._at += len(block)
            left -= len(block)


class _Hashed(io.RawIOBase):
    """A stored file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._sha256.update(data)
        buffer[: len(data)] = data
        return len(data)
