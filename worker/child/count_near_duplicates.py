"""The child that counts near-duplicates: `python -m worker.child.count_near_duplicates FOLDER`.

It finds rows.parquet in the folder and leaves COUNTED_FILE there. It imports no torch, and ends by itself when its
supervisor is gone.
"""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from service.contract.protocol import COUNTED_FILE, EXIT_STOPPED, ROWS_FILE
from service.contract.results import NearDuplicates
from worker.text.duplicate_count import METHOD, count_near_duplicates
from worker.text.words import SIMILAR


def main(folder: Path) -> None:
    """Count the near-duplicates of the dataset in the folder."""
    threading.Thread(target=_end_with_the_supervisor, daemon=True).start()
    counted = count_near_duplicates(lambda: _conversations(folder / ROWS_FILE), folder)
    result = NearDuplicates(rows=counted.rows, exact=counted.exact, threshold=SIMILAR, method=METHOD)
    unfinished = folder / f"{COUNTED_FILE}.part"
    unfinished.write_text(result.model_dump_json())
    unfinished.rename(folder / COUNTED_FILE)


def _conversations(path: Path) -> Iterator[list[dict[str, Any]]]:
    with pq.ParquetFile(path) as parquet:
        for group in range(parquet.metadata.num_row_groups):
            yield from parquet.read_row_group(group, columns=["messages"], use_threads=False)["messages"].to_pylist()


def _end_with_the_supervisor() -> None:
    """What stands on stdin, the lease among it, changes nothing: this process writes into its folder alone."""
    while os.read(0, 4096):
        pass
    os._exit(EXIT_STOPPED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
