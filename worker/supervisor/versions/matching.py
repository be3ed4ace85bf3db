"""Matches rows of two files by a digest, in memory that does not follow their number.

Digests are spread over unnamed files by their first bytes, and matched one such file at a time.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

BUCKET_ROWS = 1_000_000
"""Rows of both files together that one bucket holds on average: some 100 MB while they are matched."""

DIGEST_BYTES = 32
"""Size of a SHA-256, by which rows are matched."""

_RECORD = np.dtype([("digest", ">u8", (4,)), ("row", "<i8"), ("side", "<i8")])

Rows = NDArray[np.int64]


class Pairs(NamedTuple):
    """Rows of the old and of the new file that belong together, one pair a position."""

    old: Rows
    new: Rows


class Matcher:
    """Takes digests of rows, then gives the pairs; used as a context manager.

    The first occurrence of a digest in the old file goes with the first one in the new file, and so on; those that are
    left over have no partner.
    """

    def __init__(self, folder: Path, rows: int, bucket_rows: int = BUCKET_ROWS) -> None:
        """Make the buckets.

        Args:
            folder: Where their files are made, without a name.
            rows: How many both files have together.
            bucket_rows: How many a bucket may hold on average.
        """
        self._folder = folder
        self._count = max(1, -(-rows // bucket_rows))
        self._files: list[IO[bytes]] = []
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        for _ in range(self._count):
            self._files.append(self._opened.enter_context(tempfile.TemporaryFile(dir=self._folder)))
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def add(self, digests: bytes, rows: Sequence[int] | Rows, *, new: bool) -> None:
        """Take rows with their digests.

        Args:
            digests: DIGEST_BYTES of each row.
            rows: Their numbers, in the order of the file.
            new: Whether they are the new file's.
        """
        records = np.empty(len(rows), _RECORD)
        records["digest"] = np.frombuffer(digests, ">u8").reshape(len(rows), 4)
        records["row"] = rows
        records["side"] = new
        buckets = (records["digest"][:, 0] >> np.uint64(40)).astype(np.int64) * self._count >> 24
        for number in np.unique(buckets):
            self._files[number].write(records[buckets == number].tobytes())

    def pairs(self) -> Iterator[Pairs]:
        """Yield the pairs of each bucket."""
        for file in self._files:
            file.seek(0)
            yield _match(np.frombuffer(file.read(), _RECORD))


def _match(records: NDArray[Any]) -> Pairs:
    digest, side = records["digest"], records["side"]
    # By digest; of one digest the old ones first, each side in its own order.
    order = np.lexsort((records["row"], side, *(digest[:, part] for part in (3, 2, 1, 0))))
    digest, side, row = digest[order], side[order], records["row"][order]
    if not len(row):
        return Pairs(row, row)
    begins = np.concatenate(([True], np.any(digest[1:] != digest[:-1], axis=1)))
    group = np.cumsum(begins) - 1
    old = np.bincount(group, weights=side == 0).astype(np.int64)
    new = np.bincount(group).astype(np.int64) - old
    occurrence = np.arange(len(row)) - np.flatnonzero(begins)[group] - side * old[group]
    paired = occurrence < np.minimum(old, new)[group]
    return Pairs(row[paired & (side == 0)], row[paired & (side == 1)])
