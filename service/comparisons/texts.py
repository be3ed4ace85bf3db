"""Finds the same samples in two datasets by the SHA-256 of their messages.

The digests are in rows.parquet and not in the database. The column is read in pieces, and only what is asked for is
kept: memory grows with the number of samples looked for, and not with that of the datasets.
"""

from collections.abc import Collection, Iterator
from typing import IO, Any

PIECE_ROWS = 200_000
"""Rows read at once, which bounds the memory."""


def digests_of(file: IO[bytes], rows: Collection[int]) -> dict[int, str]:
    """Return the digest of each of the given rows.

    Args:
        file: rows.parquet of the dataset.
        rows: The rows to look up.
    """
    found: dict[int, str] = {}
    for part in _matching(file, "row", sorted(rows), "int64"):
        found.update(zip(part["row"].to_pylist(), part["sha256"].to_pylist(), strict=True))
    return found


def first_rows(file: IO[bytes], digests: Collection[str]) -> dict[str, int]:
    """Return the first row with each of the given digests; digests that no row has are absent.

    Args:
        file: rows.parquet of the dataset.
        digests: The digests to look up.
    """
    found: dict[str, int] = {}
    for part in _matching(file, "sha256", sorted(digests), "string"):
        for row, digest in zip(part["row"].to_pylist(), part["sha256"].to_pylist(), strict=True):
            found.setdefault(digest, row)
    return found


def _matching(file: IO[bytes], column: str, values: list[Any], kind: str) -> Iterator[Any]:
    # Imported here since it takes half a second, by which the API would start later.
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file.seek(0)
    wanted = pa.array(values, pa.type_for_alias(kind))
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(PIECE_ROWS, columns=["row", "sha256"], use_threads=False):
            part = pa.table(batch)
            yield part.filter(pc.is_in(part[column], value_set=wanted))
