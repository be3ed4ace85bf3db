"""The stored upload, as the file object that Arrow's readers take."""

import os


class StoredFile:
    """A file with an offset of its own: its descriptor may share a position with the process that writes."""

    def __init__(self, descriptor: int) -> None:
        """Begin at the start of the file behind a descriptor."""
        self.size = os.fstat(descriptor).st_size
        self.cut = False
        """Whether the last read found less than it asked for."""
        self.closed = False
        self._descriptor = descriptor
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; all that are left without a size."""
        left = max(self.size - self._at, 0)
        data = os.pread(self._descriptor, left if size < 0 else min(size, left), self._at)
        self._at += len(data)
        self.cut = len(data) < size
        return data

    def tail(self, length: int) -> bytes:
        """Read the last bytes, without moving."""
        return os.pread(self._descriptor, length, max(self.size - length, 0))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position.

        Args:
            offset: The position in bytes.
            whence: What it counts from, as for `io.IOBase.seek`.

        Returns:
            The new position from the start.
        """
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the position from the start."""
        return self._at

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Mark the file as closed; the descriptor stays open."""
        self.closed = True
