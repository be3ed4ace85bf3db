"""From the bytes of an upload to its lines, in memory bounded by one line: gzip, byte order mark, spans, limits."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from service.datasets.refusal import Refusal

PIECE_BYTES = 1 << 18
"""Decompressed at a time."""

RATIO_FLOOR_BYTES = 10 * 2**20
"""Below this many decompressed bytes any ratio is fine: a short file of one repeated line is no attack."""

GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"

OTHER_FILES = {
    b"PAR1": "a Parquet file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PK\x03\x04": "a ZIP archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    GZIP_MAGIC: "gzip inside gzip",
}
"""First bytes of what people upload by mistake."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of one upload: of one line, of the whole decompressed text, of decompressed to compressed bytes."""

    line_bytes: int
    text_bytes: int
    ratio: int


class Line(NamedTuple):
    """A line without its end: number from 1, and where its bytes stand in the decompressed upload."""

    number: int
    start: int
    content: bytes


def is_gzip(first: bytes) -> bool:
    """Whether an upload that starts with these bytes is gzip."""
    return first.startswith(GZIP_MAGIC)


def gunzip(chunks: Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    """The text of one or several gzip members, in pieces of at most PIECE_BYTES.

    Raises Refusal: gzip_truncated, gzip_corrupt, decompression_limit.
    """
    decoder = zlib.decompressobj(wbits=31)
    members = compressed = text = 0
    fresh = True
    """Nothing of the current member has been read."""
    for chunk in chunks:
        compressed += len(chunk)
        data = chunk
        while data:
            if fresh and members and not data.strip(b"\0"):
                break  # zeros after the last member: padding, as gzip itself takes it
            fresh = False
            try:
                piece = decoder.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise Refusal(
                    "gzip_corrupt",
                    f"The gzip data is damaged after {text} decompressed bytes. Compress the file again.",
                ) from None
            data = decoder.unconsumed_tail
            text += len(piece)
            _check_size(text, compressed, limits)
            if piece:
                yield piece
            if decoder.eof:
                data = decoder.unused_data
                decoder = zlib.decompressobj(wbits=31)
                members += 1
                fresh = True
    if not fresh or not members:
        raise Refusal(
            "gzip_truncated", f"The gzip data ends too early, after {text} decompressed bytes. Upload the whole file."
        )


def _check_size(text: int, compressed: int, limits: Limits) -> None:
    if text > limits.text_bytes:
        raise Refusal(
            "decompression_limit",
            f"The file is larger than {limits.text_bytes} bytes when decompressed. Split it.",
            413,
        )
    if text > RATIO_FLOOR_BYTES and text > compressed * limits.ratio:
        raise Refusal(
            "decompression_limit",
            f"The file grows more than {limits.ratio} times when decompressed. Upload it uncompressed.",
            413,
        )


def split_lines(pieces: Iterable[bytes], limits: Limits) -> Iterator[Line]:
    """The lines that are not blank; `\\n` and `\\r\\n` end a line, a byte order mark at the start is skipped.

    Raises Refusal: line_too_long, decompression_limit (of text that never was compressed too), format_not_recognised
    for a file that is no text of lines.
    """
    number, start, pending, total = 1, 0, bytearray(), 0
    for piece in _without_bom(pieces):
        if isinstance(piece, int):
            start = total = piece
            continue
        total += len(piece)
        if total > limits.text_bytes:
            _check_size(total, total, limits)
        head, newline, rest = piece.partition(b"\n")
        _check_line(number, len(pending) + len(head), limits)
        pending += head
        if not newline:
            continue
        yield from _line(number, start, bytes(pending))
        start += len(pending) + 1
        number += 1
        pending.clear()
        *whole, tail = rest.split(b"\n")
        for content in whole:
            _check_line(number, len(content), limits)
            yield from _line(number, start, content)
            start += len(content) + 1
            number += 1
        _check_line(number, len(tail), limits)
        pending += tail
    yield from _line(number, start, bytes(pending))


def _line(number: int, start: int, content: bytes) -> Iterator[Line]:
    content = content.removesuffix(b"\r")
    if content.strip(b" \t\r\v\f"):
        yield Line(number, start, content)


def _check_line(number: int, length: int, limits: Limits) -> None:
    if length > limits.line_bytes:
        raise Refusal(
            "line_too_long",
            f"Line {number} is longer than {limits.line_bytes} bytes. Put one record on each line.",
            line=number,
        )


def _without_bom(pieces: Iterable[bytes]) -> Iterator[bytes | int]:
    """The pieces; before them the length of a byte order mark, if there is one."""
    source = iter(pieces)
    first = b""
    for piece in source:
        first += piece
        if len(first) >= 8:
            break
    for magic, name in OTHER_FILES.items():
        if first.startswith(magic):
            raise Refusal("format_not_recognised", f"This is {name}. Upload JSONL in UTF-8, plain or as gzip.")
    if first.startswith(BOM):
        yield len(BOM)
        first = first[len(BOM) :]
    if first:
        yield first
    yield from source
