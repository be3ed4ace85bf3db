"""Rows of numbers that a run adds in small parts, kept in few pieces: a tensor takes more memory than its numbers."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PARTS = 256
"""Parts that are joined at once. They stay on their device until then, which is waited for no more often."""


class AppendedRows:
    """Rows [n, ...] that are appended in parts and read as one tensor on the CPU."""

    def __init__(self, rows: Tensor | None = None) -> None:
        """Begin with these rows; None: without any."""
        self._joined: list[Tensor] = [] if rows is None else [rows]
        """On the CPU, each larger than the next."""
        self._parts: list[Tensor] = []

    def append(self, rows: Tensor) -> None:
        """Add rows [n, ...] behind the others. They are not copied at once, and must not be changed afterwards."""
        self._parts.append(rows)
        if len(self._parts) == PARTS:
            self._join()

    def whole(self) -> Tensor | None:
        """Return all rows, on the CPU; None if there is none."""
        self._join()
        if len(self._joined) > 1:
            self._joined = [torch.cat(self._joined)]
        return self._joined[0] if self._joined else None

    def take(self) -> NDArray[np.float64] | None:
        """Return all rows in double precision and forget them, piece by piece; None if there is none."""
        self._join()
        pieces, self._joined = self._joined, []
        if not pieces:
            return None
        found = np.empty((sum(map(len, pieces)), *pieces[0].shape[1:]), dtype=np.float64)
        end = len(found)
        while pieces:
            own = pieces.pop()
            found[end - len(own) : end] = own.numpy()
            end -= len(own)
        return found

    def _join(self) -> None:
        if self._parts:
            devices = {part.device for part in self._parts}
            parts = self._parts if len(devices) == 1 else [part.cpu() for part in self._parts]
            self._joined.append(torch.cat(parts).cpu())
            self._parts = []
        # Pieces double: a system gives memory back for large pieces, and keeps that of thousands of small ones.
        while len(self._joined) > 1 and len(self._joined[-1]) >= len(self._joined[-2]):
            last = self._joined.pop()
            self._joined[-1] = torch.cat([self._joined[-1], last])
