"""Finding the same samples in two datasets by the SHA-256 of their messages.

It is in rows.parquet and not in the database. The column is read in pieces, and only what was asked for is kept: memory
follows the number of samples looked for, and not that of the datasets.
"""

from collections.abc import Collection, Iterator
from typing import IO, Any

PIECE_ROWS = 200_000


def digests_of(file: IO[bytes], rows: Collection[int]) -> dict[int, str]:
    """The digest of each of those rows."""
    found: dict[int, str] = {}
    for part in _matching(file, "row", sorted(rows), "int64"):
        found.update(zip(part["row"].to_pylist(), part["sha256"].to_pylist(), strict=True))
    return found


def first_rows(file: IO[bytes], digests: Collection[str]) -> dict[str, int]:
    """The first row that has each of those digests, where any has."""
    found: dict[str, int] = {}
    for part in _matching(file, "sha256", sorted(digests), "string"):
        for row, digest in zip(part["row"].to_pylist(), part["sha256"].to_pylist(), strict=True):
            found.setdefault(digest, row)
    return found


def _matching(file: IO[bytes], column: str, values: list[Any], kind: str) -> Iterator[Any]:
    # Imported here since it takes half a second, which a starting API need not pay.
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file.seek(0)
    wanted = pa.array(values, pa.type_for_alias(kind))
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(PIECE_ROWS, columns=["row", "sha256"], use_threads=False):
            part = pa.table(batch)
            yield part.filter(pc.is_in(part[column], value_set=wanted))
