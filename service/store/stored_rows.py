"""Samples of datasets in the object store, for a process that reads one of this dataset and a page of that."""

import threading
from collections import OrderedDict
from typing import IO, Any

from service.contract.protocol import ROWS_FILE
from service.store.objects import ObjectStore, dataset_key
from service.store.reader_places import ReaderPlaces
from service.store.rows import Footer, page, read_footer, read_row

MOST_GROUPS = 5_000
"""Row groups whose places are kept in memory, of all datasets together; each takes about 7 KB."""


class StoredRows:
    """Reads samples of datasets and remembers the footers of their files. Safe for threads.

    Objects never change, and parsing a large dataset's footer takes longer than reading a row. Every method raises
    ObjectMissingError and ObjectStoreUnavailableError.
    """

    def __init__(self, objects: ObjectStore, most_groups: int = MOST_GROUPS, *, most_readers: int = 16) -> None:
        """Read from `objects`, in `most_readers` threads at once, and keep at most `most_groups` in mind."""
        self._objects = objects
        self.readers = ReaderPlaces(most_readers)
        self._most_groups = most_groups
        self._kept: OrderedDict[str, Footer] = OrderedDict()
        self._groups = 0
        self._lock = threading.Lock()

    def row(self, workspace_id: str, dataset_id: str, row: int) -> dict[str, Any]:
        """Read one sample of a dataset.

        Args:
            workspace_id: Id of the workspace.
            dataset_id: Id of the dataset.
            row: Number of the row, from 0.

        Raises:
            RowNotFoundError: The dataset has no such row.
        """
        key = dataset_key(workspace_id, dataset_id, ROWS_FILE)
        with self.readers.place(), self._objects.open(key) as file:
            return read_row(file, row, self._footer(key, file))

    def page(self, workspace_id: str, dataset_id: str, after_row: int | None, limit: int) -> list[dict[str, Any]]:
        """Read a page of samples, as `rows.page` does.

        Args:
            workspace_id: Id of the workspace.
            dataset_id: Id of the dataset.
            after_row: The row before the first one; None: from the beginning.
            limit: How many rows to read at most.
        """
        key = dataset_key(workspace_id, dataset_id, ROWS_FILE)
        with self.readers.place(), self._objects.open(key) as file:
            return page(file, after_row, limit, self._footer(key, file))

    def _footer(self, key: str, file: IO[bytes]) -> Footer:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        footer = read_footer(file)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = footer
                self._groups += footer.groups
            while self._groups > self._most_groups:
                _, oldest = self._kept.popitem(last=False)
                self._groups -= oldest.groups
        return footer
