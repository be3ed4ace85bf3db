"""Running the parser in the test's own process, and reading what it wrote."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from service.datasets.parsing.parser import Options, parse
from service.store.rows import page

MIB = 2**20


def run(
    data: bytes, path: Path, *, chunk: int = 1 << 16, came: Callable[[int], None] = lambda count: None, **changed: Any
) -> dict[str, Any]:
    """Parses `data`, cut into chunks, into the Parquet file `path`."""
    return run_chunks((data[start : start + chunk] for start in range(0, len(data), chunk)), path, came, **changed)


def run_chunks(
    chunks: Iterator[bytes], path: Path, came: Callable[[int], None] = lambda count: None, **changed: Any
) -> dict[str, Any]:
    """Parses the chunks, which are stored as they are read, as the API does."""
    with path.open("wb") as file, TemporaryFile(buffering=0) as original, TemporaryFile() as scratch:

        def stored() -> Iterator[bytes]:
            for chunk in chunks:
                original.write(chunk)
                yield chunk

        defaults = {
            "output": file.fileno(),
            "original": original.fileno(),
            "scratch": scratch.fileno(),
            "format": "auto",
            "mapping": None,
            "encoding": "identity",
            "max_text_bytes": 64 * MIB,
            "max_line_bytes": MIB,
            "max_ratio": 200,
            "max_rows": 10_000,
            "memory_bytes": 0,
            "cpu_seconds": 0,
            "cpu_bytes_per_second": MIB,
        }
        return parse(stored(), Options(**(defaults | changed)), came)


def rows_of(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return page(file, None, 10**6)


def canonical_sha256(messages: list[dict[str, str]]) -> str:
    text = json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
