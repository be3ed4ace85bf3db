"""The upload as it was stored, as the file that Arrow's readers take."""

import os


class StoredFile:
    """The file by its own offsets: its descriptor may share its position with whoever writes."""

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self.cut = False
        """Whether the last read found less than it asked for."""
        self.closed = False
        self._descriptor = descriptor
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        left = max(self.size - self._at, 0)
        data = os.pread(self._descriptor, left if size < 0 else min(size, left), self._at)
        self._at += len(data)
        self.cut = len(data) < size
        return data

    def tail(self, length: int) -> bytes:
        """The last bytes."""
        return os.pread(self._descriptor, length, max(self.size - length, 0))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True
