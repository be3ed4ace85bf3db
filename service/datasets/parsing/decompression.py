"""Decompressing an upload in pieces, from gzip or zstd, with limits on its size and growth."""

import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from service.datasets.parsing.refusal import Refusal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 1 << 18
"""Bytes that are decompressed at a time."""

SLICE_BYTES = 1 << 14
"""Bytes of compressed data taken at a time: the growth is measured from what was taken."""

RATIO_FLOOR_BYTES = 10 * 2**20
"""Below this many decompressed bytes any ratio is fine: a short file of one repeated line is no attack."""

ZSTD_WINDOW_LOG = 27
"""A frame may ask for a window of 128 MiB, as much as zstd's own program grants; the usual ones ask for 8 or less."""

EMPTY_PARTS = 10_000
"""The most members or frames without text, beside one for each with text: each costs the time of kilobytes of text."""

GZIP_MAGIC = b"\x1f\x8b"
"""The first bytes of a gzip member (RFC 1952)."""

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of a Zstandard frame (RFC 8878)."""

_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
"""The magic of a frame without data, after a first byte from 0x50 to 0x5f."""

MAGIC_BYTES = 4
"""How many bytes `recognise_encoding` needs."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one upload.

    Attributes:
        line_bytes: Bytes of one record.
        text_bytes: Bytes of the whole decompressed text.
        ratio: Decompressed bytes for each compressed one.
    """

    line_bytes: int
    text_bytes: int
    ratio: int


def recognise_encoding(first: bytes) -> str:
    """Recognise identity, gzip or zstd by the first MAGIC_BYTES bytes of an upload."""
    if first.startswith(GZIP_MAGIC):
        return "gzip"
    skippable = first[1:4] == _ZSTD_SKIPPABLE and first[0] >> 4 == 5
    return "zstd" if first.startswith(ZSTD_MAGIC) or skippable else "identity"


def decompress(chunks: Iterable[bytes], encoding: str, limits: Limits) -> Iterator[bytes]:
    """Decompress an upload in pieces. Several gzip members or zstd frames make one text.

    Args:
        chunks: The upload as it comes.
        encoding: `identity`, `gzip` or `zstd`.
        limits: How large the text may become.

    Yields:
        The text.

    Raises:
        Refusal: `gzip_truncated`, `gzip_corrupt`, `zstd_truncated`, `zstd_corrupt` or `decompression_limit`.
    """
    if encoding == "identity":
        return _plain(chunks, limits)
    return _inflate(chunks, _Gzip if encoding == "gzip" else _Zstd, limits)


def check_size(text: int, compressed: int, limits: Limits) -> None:
    """Check that a decompressed text is not too large.

    Args:
        text: The decompressed bytes so far.
        compressed: The bytes that they came from.
        limits: How large it may become.

    Raises:
        Refusal: `decompression_limit`.
    """
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


def _plain(chunks: Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        check_size(total, total, limits)
        yield chunk


class _Part:
    """One gzip member or zstd frame."""

    name: str
    padding = b""
    """What may follow the last part."""
    error: type[Exception]
    _decoder: Any

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Decompress the next bytes, PIECE_BYTES at a time."""
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """Whether the part is complete."""
        return bool(self._decoder.eof)

    @property
    def rest(self) -> bytes:
        """The bytes after the end of the part."""
        rest: bytes = self._decoder.unused_data
        return rest


class _Gzip(_Part):
    name = "gzip"
    padding = b"\0"  # as gzip itself accepts it
    error = zlib.error

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while data and not self._decoder.eof:
            yield self._decoder.decompress(data, PIECE_BYTES)
            data = self._decoder.unconsumed_tail


class _Zstd(_Part):
    name = "zstd"
    error = zstd.ZstdError

    def __init__(self) -> None:
        self._decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})

    def pieces(self, data: bytes) -> Iterator[bytes]:
        yield self._decoder.decompress(data, PIECE_BYTES)
        # The decoder itself keeps what it has not decompressed yet.
        while not self._decoder.eof and not self._decoder.needs_input:
            yield self._decoder.decompress(b"", PIECE_BYTES)


def _inflate(chunks: Iterable[bytes], part: type[_Part], limits: Limits) -> Iterator[bytes]:
    decoder = part()
    members = filled = compressed = text = begun = 0
    fresh = True
    """Whether nothing of the current member has been read; `begun` is the length of the text before it."""
    for slice in _slices(chunks):
        compressed += len(slice)
        data = slice
        while data:
            if fresh and members and part.padding and not data.strip(part.padding):
                break
            fresh = False
            try:
                for piece in decoder.pieces(data):
                    text += len(piece)
                    check_size(text, compressed, limits)
                    if piece:
                        yield piece
            except part.error as error:
                if "too much memory" in str(error):
                    detail = (
                        "The zstd data asks for a window of more than 128 MiB. Compress it without --long=28 or more."
                    )
                    raise Refusal("decompression_limit", detail, 413) from None
                raise Refusal(
                    f"{part.name}_corrupt",
                    f"The {part.name} data is damaged after {text} decompressed bytes. Compress the file again.",
                ) from None
            if not decoder.ended:
                break
            data = decoder.rest
            decoder = part()
            members += 1
            filled += text > begun
            if members - 2 * filled > EMPTY_PARTS:
                detail = f"The {part.name} data has more than {EMPTY_PARTS} empty parts. Compress the file again."
                raise Refusal("decompression_limit", detail, 413)
            fresh, begun = True, text
    if not fresh or not members:
        raise Refusal(
            f"{part.name}_truncated",
            f"The {part.name} data ends too early, after {text} decompressed bytes. Upload the whole file.",
        )


def _slices(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), SLICE_BYTES):
            yield chunk[start : start + SLICE_BYTES]
