"""From the text of an upload to its lines, block by block, in memory bounded by one line."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from service.datasets.decompression import Limits
from service.datasets.refusal import Refusal


class Block(NamedTuple):
    """JSON texts that each should be a record, one after the other; none is blank."""

    places: list[int]
    """Where each stands: the number of its line from 1, or in a JSON array its position from 0."""
    starts: list[int] | None
    """Where each begins in the decompressed upload; None where the upload has no lines."""
    texts: list[bytes]

    def part(self, start: int, end: int) -> "Block":
        """Those from `start` up to `end`."""
        starts = None if self.starts is None else self.starts[start:end]
        return Block(self.places[start:end], starts, self.texts[start:end])


def split_lines(pieces: Iterable[bytes], limits: Limits, *, start: int = 0) -> Iterator[Block]:
    """The lines that are not blank; `\\n` and `\\r\\n` end a line. The first byte stands at `start` in the upload.

    Raises Refusal line_too_long.
    """
    number, pending = 1, bytearray()
    for piece in pieces:
        head, newline, tail = piece.rpartition(b"\n")
        pending += head if newline else tail
        if not newline:
            _check(number, len(pending), limits)
            continue
        texts = bytes(pending).split(b"\n")
        if len(pending) > limits.line_bytes:
            for ahead, text in enumerate(texts):
                _check(number + ahead, len(text), limits)
        yield _block(number, start, texts)
        number += len(texts)
        start += len(pending) + 1
        pending = bytearray(tail)
        _check(number, len(pending), limits)
    yield _block(number, start, [bytes(pending)])


def _block(number: int, start: int, texts: list[bytes]) -> Block:
    starts = []
    for text in texts:
        starts.append(start)
        start += len(text) + 1
    places = list(range(number, number + len(texts)))
    if any(not text or text.isspace() for text in texts):
        kept = [index for index, text in enumerate(texts) if text and not text.isspace()]
        places, starts, texts = ([column[index] for index in kept] for column in (places, starts, texts))  # type: ignore[assignment]
    return Block(places, starts, [text.removesuffix(b"\r") for text in texts])


def _check(number: int, length: int, limits: Limits) -> None:
    if length > limits.line_bytes:
        raise Refusal(
            "line_too_long",
            f"Line {number} is longer than {limits.line_bytes} bytes. Put one record on each line.",
            pointer=f"line:{number}",
        )
