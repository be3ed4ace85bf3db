"""Recognising the format of a text by its content: JSONL, JSON or CSV; other files are named in the refusal."""

from collections.abc import Iterable, Iterator
from itertools import chain

import orjson

from service.datasets.parsing.decompression import GZIP_MAGIC, ZSTD_MAGIC
from service.datasets.parsing.readers.arrow_file import FILE_MAGIC as ARROW_FILE_MAGIC
from service.datasets.parsing.readers.arrow_file import STREAM_MAGIC as ARROW_STREAM_MAGIC
from service.datasets.parsing.readers.parquet import MAGIC as PARQUET_MAGIC
from service.datasets.parsing.refusal import Refusal

BOM = b"\xef\xbb\xbf"
"""UTF-8's byte order mark, which some editors write at the beginning of a file."""

HEAD_BYTES = 1 << 16
"""The most bytes that are looked at: enough for a header or the beginning of a record."""

OTHER_FILES = {
    PARQUET_MAGIC: "compressed Parquet, which is compressed within: upload the Parquet file itself",
    ARROW_FILE_MAGIC: "a compressed Arrow file: upload the Arrow file itself",
    ARROW_STREAM_MAGIC: "a compressed Arrow stream: upload the Arrow file itself",
    b"PK\x03\x04": "a ZIP archive, or a spreadsheet",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x89HDF": "an HDF5 file",
    b"FEA1": "a Feather file of version 1: write it as Parquet",
    b"ORC": "an ORC file: write it as Parquet",
    b"Obj\x01": "an Avro file: write it as Parquet",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
    b"%PDF": "a PDF file",
    b"\x93NUMPY": "a NumPy file",
    b"PARE": "an encrypted Parquet file: write it without encryption",
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), "a pickle, which can run code: write it as Parquet"
    ),
    b"version https://git-lfs": "a pointer of Git LFS, and not the file it stands for: fetch that with `git lfs pull`",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
    GZIP_MAGIC: "gzip inside another compression",
    ZSTD_MAGIC: "zstd inside another compression",
}
"""First bytes of what people upload by mistake."""

_TAR = (257, b"ustar")
"""The mark of a tar archive, and its place behind the name of the first file."""

_MARKUP = (b"<!doctype", b"<html", b"<?xml")


def begin(pieces: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the head of a text, and the whole text again."""
    source = iter(pieces)
    head = b""
    for piece in source:
        head += piece
        # A form has its headers on the lines behind the first one.
        if len(head) >= HEAD_BYTES or (b"\n" in head.lstrip() and not head.startswith(b"--")):
            break
    return head, chain([head], source)


def recognise_container(head: bytes) -> str:
    """Recognise the format of a text.

    Args:
        head: Its beginning, without a byte order mark.

    Returns:
        `jsonl`, `json` or `csv`.

    Raises:
        Refusal: `format_not_recognised`: it is another kind of file.
    """
    other = _other_file(head)
    if other is not None:
        raise Refusal(
            "format_not_recognised",
            f"This is {other}. Upload JSONL, JSON, CSV, Parquet or Arrow; the texts plain, or as gzip or zstd.",
        )
    text = head.lstrip()
    if text.startswith(b"["):
        return "json"
    if b"\r" in text.strip() and b"\n" not in text:
        detail = (
            "The lines of this file end with carriage returns alone. Save it with line feeds, "
            "as with tr '\\r' '\\n' < old > new."
        )
        raise Refusal("format_not_recognised", detail)
    line = text.partition(b"\n")[0]
    if text.startswith(b"{") and line.strip() == b"{":
        return "json"  # objects that are written over several lines
    if text.startswith(b"{") or not text:
        return "jsonl"
    try:
        # A text alone may be the name of a CSV file's one column.
        return "csv" if isinstance(orjson.loads(line), str) else "jsonl"
    except orjson.JSONDecodeError:
        return "csv"


def _other_file(head: bytes) -> str | None:
    for magic, name in OTHER_FILES.items():
        if head.startswith(magic):
            return name
    at, mark = _TAR
    if head[at : at + len(mark)] == mark:
        return "an archive of tar: upload the file in it"
    text = head.lstrip()
    if text[:9].lower().startswith(_MARKUP):
        return "a web page or XML, and not the file: its address may have led to a page; download the raw file"
    if text.startswith(b"--") and b"content-disposition:" in text.lower():
        return "a form with the file in it: send the file itself as the body, as with curl --data-binary @FILE"
    return None
