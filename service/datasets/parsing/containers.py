"""Which form an upload has, by what is in it: JSONL, a JSON array, CSV or Parquet."""

from collections.abc import Iterable, Iterator
from itertools import chain

import orjson

from service.datasets.parsing.decompression import GZIP_MAGIC, ZSTD_MAGIC
from service.datasets.parsing.readers.parquet import MAGIC as PARQUET_MAGIC
from service.datasets.parsing.refusal import Refusal

CONTAINERS = ("jsonl", "json", "csv", "parquet")

BOM = b"\xef\xbb\xbf"

HEAD_BYTES = 1 << 16
"""Looked at, at most: as many as hold a header or the beginning of a record."""

OTHER_FILES = {
    PARQUET_MAGIC: "compressed Parquet, which is compressed within: upload the Parquet file itself",
    b"PK\x03\x04": "a ZIP archive, or a spreadsheet",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x89HDF": "an HDF5 file",
    b"ARROW1": "an Arrow file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    GZIP_MAGIC: "gzip inside another compression",
    ZSTD_MAGIC: "zstd inside another compression",
}
"""First bytes of what people upload by mistake."""


def begin(pieces: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The head of a text, and the whole text again."""
    source = iter(pieces)
    head = b""
    for piece in source:
        head += piece
        if len(head) >= HEAD_BYTES or b"\n" in head.lstrip():
            break
    return head, chain([head], source)


def recognise_container(head: bytes) -> str:
    """jsonl, json or csv, by the head of a text without its byte order mark. Raises Refusal format_not_recognised."""
    for magic, name in OTHER_FILES.items():
        if head.startswith(magic):
            raise Refusal(
                "format_not_recognised",
                f"This is {name}. Upload JSONL, JSON, CSV or Parquet; the texts plain, or as gzip or zstd.",
            )
    text = head.lstrip()
    if text.startswith(b"["):
        return "json"
    if text.startswith(b"{") or not text:
        return "jsonl"
    line = text.partition(b"\n")[0]
    try:
        # A text alone may be the name of a CSV file's one column.
        return "csv" if isinstance(orjson.loads(line), str) else "jsonl"
    except orjson.JSONDecodeError:
        return "csv"
