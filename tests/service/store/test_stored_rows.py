"""Samples out of the stored file: right ones, and no more read for one than its row group."""

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.datasets.parsing.rows_writer import SCHEMA
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.rows import RowNotFoundError, page, read_row, read_rows
from service.store.stored_rows import StoredRows

ROWS = 3_000
GROUP = 700


def sample(row: int) -> dict[str, Any]:
    return {
        "row": row,
        "messages": [
            {"role": "user", "content": hashlib.shake_128(b"%d" % row).hexdigest(200)},
            {"role": "assistant", "content": "é" * (row % 9)},
        ],
        "extra": {"n": row},
    }


class CountedFile(io.FileIO):
    """Counts what is read of it."""

    total = 0

    def readinto(self, buffer: Any) -> int | None:
        size = super().readinto(buffer)
        self.total += size or 0
        return size

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(-1 if size is None else size)
        self.total += len(content)
        return content


class CountedObjects(LocalObjects):
    """A folder that knows how many bytes each reading took."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.readings: list[int] = []

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        with CountedFile(self.path(key)) as file:
            yield file  # type: ignore[misc]
            self.readings.append(file.total)


def write(objects: LocalObjects, dataset_id: str, rows: int = ROWS, group: int = GROUP) -> Any:
    """Stores a dataset; its metadata."""
    samples = [sample(row) for row in range(rows)]
    numbers = pa.array(range(rows), pa.int64())
    columns = [
        numbers, pa.array([one["messages"] for one in samples], SCHEMA.field("messages").type),
        [json.dumps(one["extra"]) for one in samples], numbers, numbers, numbers.cast(pa.string()),
    ]  # fmt: skip
    with objects.create(dataset_key("ws", dataset_id, "rows.parquet")) as file:
        pq.write_table(pa.table(columns, schema=SCHEMA), file, row_group_size=group, compression="zstd")
    return pq.read_metadata(objects.path(dataset_key("ws", dataset_id, "rows.parquet")))


EDGES = [0, 1, 255, 256, 257, GROUP - 1, GROUP, GROUP + 256, 4 * GROUP, ROWS - 1]


@pytest.mark.parametrize("row", EDGES)
def test_a_row_is_that_row(tmp_path: Path, row: int) -> None:
    objects = LocalObjects(tmp_path)
    write(objects, "ds")
    rows = StoredRows(objects)
    assert rows.row("ws", "ds", row) == rows.row("ws", "ds", row) == sample(row)
    assert rows.page("ws", "ds", row - 1, 2) == [sample(one) for one in range(row, min(row + 2, ROWS))]
    with objects.open(dataset_key("ws", "ds", "rows.parquet")) as file:
        assert read_row(file, row) == read_rows(file, [row])[0] == page(file, row - 1, 1)[0] == sample(row)


@pytest.mark.parametrize("row", [-1, ROWS, 2**62])
def test_there_are_no_others(tmp_path: Path, row: int) -> None:
    objects = LocalObjects(tmp_path)
    write(objects, "ds")
    with pytest.raises(RowNotFoundError):
        StoredRows(objects).row("ws", "ds", row)


def test_one_row_reads_its_group_and_the_footer_once(tmp_path: Path) -> None:
    objects = CountedObjects(tmp_path)
    metadata = write(objects, "ds")
    rows = StoredRows(objects)
    wanted = [5, 6, 2 * GROUP + 3]
    for row in wanted:
        rows.row("ws", "ds", row)
    groups = [metadata.row_group(row // GROUP) for row in wanted]
    # row, role, content and extra; start, length and sha256 are left where they are.
    sizes = [sum(group.column(column).total_compressed_size for column in range(4)) for group in groups]
    first, second, third = objects.readings
    assert sizes[0] > 100_000
    assert [second, third] == sizes[1:]
    assert sizes[0] < first <= sizes[0] + max(2**16, metadata.serialized_size) + 100


def test_footers_are_kept_within_a_bound(tmp_path: Path) -> None:
    objects = CountedObjects(tmp_path)
    for number in range(4):
        write(objects, f"ds{number}", rows=100, group=10)
    rows = StoredRows(objects, most_groups=25)
    for number in (0, 1, 0, 2, 0, 3, 0):
        assert rows.row("ws", f"ds{number}", 42) == sample(42)
    with_footer = max(objects.readings)
    known = [taken < with_footer for taken in objects.readings]
    assert known == [False, False, True, False, True, False, True], "two fit, and the one used last stays"
