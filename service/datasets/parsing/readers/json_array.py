"""Splitting a JSON array, or objects over several lines, into the texts of its elements, one in memory at a time."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import NoReturn

from service.datasets.parsing.decompression import PIECE_BYTES, Limits
from service.datasets.parsing.readers.jsonl import Block
from service.datasets.parsing.refusal import Refusal

BLOCK_TEXTS = 256
"""Records that are handed on together."""

_MARGIN = 16
"""An error this close to the end of what was read may be due to what is missing: half a number, escape or word."""

_SPACE = re.compile(r"[ \t\r\n]*")

# It only finds where an element ends, so numbers are not converted. It accepts more than JSON, since errors inside a
# record are reported for that record alone.
_ENDS = json.JSONDecoder(strict=False, parse_int=bool, parse_float=bool, parse_constant=bool)


def split_array(pieces: Iterable[bytes], limits: Limits) -> Iterator[Block]:
    """Split an array into its elements, by their position from 0.

    Args:
        pieces: The text as it comes, which begins with `[` after white space.
        limits: Limits of the upload.

    Raises:
        Refusal: `json_invalid` if the array itself is broken; `line_too_long`.
    """
    return _Array(pieces, limits).blocks()


def split_objects(pieces: Iterable[bytes], limits: Limits) -> Iterator[Block]:
    """Split objects that follow one another, each over several lines, by their position from 0.

    Args:
        pieces: The text as it comes.
        limits: Limits of the upload.

    Raises:
        Refusal: `json_invalid` if an object is broken; `line_too_long`.
    """
    return _Objects(pieces, limits).blocks()


class _Array:
    _name = "array is"

    def __init__(self, pieces: Iterable[bytes], limits: Limits) -> None:
        self._pieces = iter(pieces)
        self._limits = limits
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._more = True
        self._element = 0

    def blocks(self) -> Iterator[Block]:
        places: list[int] = []
        texts: list[bytes] = []
        size = 0
        for text in self._elements():
            places.append(self._element)
            texts.append(text)
            size += len(text)
            if len(texts) >= BLOCK_TEXTS or size >= PIECE_BYTES:
                yield Block(places, None, texts)
                places, texts, size = [], [], 0
        yield Block(places, None, texts)

    def _elements(self) -> Iterator[bytes]:
        self._next_mark()
        self._at += 1  # the bracket
        if self._next_mark() == "]":
            self._at += 1
            self._end()
            return
        while True:
            yield self._read_element()
            mark = self._next_mark()
            if mark not in (",", "]"):
                self._refuse("is not followed by a comma or the closing bracket" if mark else "is the last thing there")
            self._at += 1
            if mark == "]":
                self._end()
                return
            self._element += 1
            if self._next_mark() == "]":
                self._refuse("is missing after a comma")

    def _end(self) -> None:
        if self._next_mark():
            detail = (
                "The JSON array is followed by something else. Upload one array of records, or JSONL, where every line "
                'is an object: a list of turns is written as {"messages": [...]}.'
            )
            raise Refusal("json_invalid", detail)

    def _next_mark(self) -> str:
        """Return the next character that is no space, without consuming it; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None  # it may be empty
            self._at = space.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read(PIECE_BYTES):
                return ""

    def _read_element(self) -> bytes:
        while True:
            incomplete = False
            try:
                _, end = _ENDS.raw_decode(self._text, self._at)
                # A number may continue.
                incomplete = end == len(self._text)
            except json.JSONDecodeError as error:
                incomplete = error.pos >= len(self._text) - _MARGIN or error.msg.startswith("Unterminated string")
                if not (incomplete and self._more):
                    self._refuse("ends too early" if incomplete else f"is not valid JSON: {error.msg}")
            except RecursionError:
                self._refuse("is nested too deep")
            if incomplete and self._more:
                # Twice as much each time, so that a long element is not read over and over.
                self._read(max(PIECE_BYTES, len(self._text) - self._at))
                if len(self._text) - self._at > 2 * self._limits.line_bytes + PIECE_BYTES:
                    self._too_long()
                continue
            text = self._text[self._at : end].encode()
            if len(text) > self._limits.line_bytes:
                self._too_long()
            self._at = end
            return text

    def _read(self, characters: int) -> bool:
        """Read about this many characters more; return False at the end of the upload."""
        parts = [self._text[self._at :]]
        self._at = 0
        while self._more and characters > 0:
            piece = next(self._pieces, None)
            try:
                text = self._decoder.decode(piece or b"", piece is None)
            except UnicodeDecodeError:
                self._refuse("or what stands near it is not UTF-8; save the file as UTF-8")
            self._more = piece is not None
            parts.append(text)
            characters -= len(text)
        grown = any(parts[1:])
        self._text = "".join(parts)
        return grown

    def _too_long(self) -> NoReturn:
        detail = f"Record {self._element} is longer than {self._limits.line_bytes} bytes. Split it."
        raise Refusal("line_too_long", detail, pointer=f"row:{self._element}")

    def _refuse(self, what: str) -> NoReturn:
        detail = f"The JSON {self._name} broken: record {self._element} {what}. Records count from 0."
        raise Refusal("json_invalid", detail, pointer=f"row:{self._element}")


class _Objects(_Array):
    _name = "objects are"

    def _elements(self) -> Iterator[bytes]:
        while self._next_mark():
            yield self._read_element()
            self._element += 1
