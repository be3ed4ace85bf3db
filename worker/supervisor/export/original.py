"""An upload without some of its lines: everything else stays byte for byte, line ends and byte order mark too."""

import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from service.contract.failure import ErrorCode, Failure
from worker.supervisor.audit.step_folder import InputMissingError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK_BYTES = 1 << 20

LINE_ENDS = (b"\n", b"\r\n", b"\r", b"")
"""What may follow a record: the last line needs no end, and a lone carriage return there is none of its record."""

DECODERS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda file: file,
    "gzip": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    "zstd": lambda file: zstd.ZstdFile(file, mode="rb"),
}
"""By `datasets.encoding`: from the stored file to one that reads as bytes of the upload's text."""


class OriginalChangedError(InputMissingError):
    """What is stored is not what was uploaded."""

    def __init__(self) -> None:
        super().__init__("The upload as it came is")
        self.failure = Failure(
            code=ErrorCode.INPUT_MISSING,
            message="The stored original is not the file that was uploaded: its SHA-256 differs.",
            hint="Somebody has changed the object store. Upload the dataset again.",
        )


@contextmanager
def open_original(stored: IO[bytes], *, encoding: str, sha256: str) -> Iterator[IO[bytes]]:
    """The decompressed upload, to be read once from its start to its end.

    Raises OriginalChangedError at the end of the block, and whatever reading a file in another encoding raises.
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
        """`tick` is called at least once a block; what it raises ends the copying."""
        self._source = source
        self._write = write
        self._tick = tick
        self._at = 0

    def leave_out(self, start: int, length: int) -> None:
        """Leaves out the record at those bytes with the end of its line; records come in the order of the file.

        Raises OriginalChangedError where that is no whole line.
        """
        self._pass(start - self._at, self._write)
        self._pass(length, lambda _: None)
        end = self._source.readline(3)
        if end not in LINE_ENDS:
            raise OriginalChangedError
        self._at += len(end)

    def copy_to(self, offset: int) -> None:
        """Copies what comes before that byte, if it has not been passed yet."""
        if offset > self._at:
            self._pass(offset - self._at, self._write)

    def finish(self) -> None:
        """Copies the rest."""
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
