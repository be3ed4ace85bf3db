"""Rows of numbers that a run appends to a file, for those that are too many for the memory."""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class SpooledRows:
    """Rows [n, ...] of one type that are appended in parts and read as one tensor on the CPU.

    They lie in a file without a name, which is gone with the process. What the disk does not take, since it is full,
    stays in memory until it does: a run does not end for want of room that comes back.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Begin without rows.

        Args:
            folder: Where the file is to be; None: where temporary files are.
        """
        self._folder = folder
        self._file: int | None = None
        self._like: Tensor | None = None
        self._bytes = 0
        """Written of whole parts."""
        self._waiting: list[Tensor] = []
        """Parts behind those."""

    def __del__(self) -> None:
        """Close the file; a tensor that `whole` returned keeps it."""
        if self._file is not None:
            os.close(self._file)

    def append(self, rows: Tensor) -> None:
        """Add rows behind the others, which must not be changed afterwards.

        Args:
            rows: [n, ...] on the CPU; of the same type and shape as those before, but for n.

        Raises:
            ValueError: The rows are of another type or shape.
        """
        if self._like is None:
            self._like = rows.new_empty(0, *rows.shape[1:])
        if rows.dtype != self._like.dtype or rows.shape[1:] != self._like.shape[1:]:
            raise ValueError(f"rows of {rows.dtype} {tuple(rows.shape[1:])} were appended to others")
        if rows.numel():
            self._waiting.append(rows)
        self._write_waiting()

    def whole(self) -> Tensor | None:
        """Return all rows; None if there is none. They are read as they are used, and are not to be written to.

        Raises:
            OSError: The file cannot be read.
        """
        self._write_waiting()
        parts = [*self._written(), *self._waiting]
        return torch.cat(parts) if len(parts) > 1 else parts[0] if parts else None

    def _written(self) -> list[Tensor]:
        if self._file is None or self._like is None or not self._bytes:
            return []
        dtype = self._like.numpy().dtype
        with os.fdopen(os.dup(self._file), "rb") as file:
            found = np.memmap(file, dtype=dtype, mode="c", shape=(self._bytes // dtype.itemsize,))
        return [torch.from_numpy(found).view(-1, *self._like.shape[1:])]

    def _write_waiting(self) -> None:
        try:
            if self._waiting and self._file is None:
                self._file, name = tempfile.mkstemp(dir=self._folder)
                os.unlink(name)
            while self._waiting:
                self._bytes += self._write(self._waiting[0])
                del self._waiting[0]
        except OSError:
            return

    def _write(self, rows: Tensor) -> int:
        """Write a part behind the others, and return its length in bytes."""
        assert self._file is not None
        content = rows.contiguous().numpy().data.cast("B")
        written = 0
        while written < len(content):
            written += os.pwrite(self._file, content[written:], self._bytes + written)
        return written
