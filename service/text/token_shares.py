"""Which words of a sample carry its influence: shares of tokens added up to words, and as shades of the text."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from service.text.visible_text import MAX_SHOWN, Piece, pieces

STEPS = 9
"""Shades of each colour."""

LONGEST_WORD = 40
"""Most characters of a word. Scripts without spaces have no ends of words: beyond this, tokens stay separate."""


@dataclass(frozen=True)
class Share:
    """The share of a stretch of one message, in characters."""

    message: int
    start: int
    end: int
    share: float
    """Positive shares push toward the unwanted answers."""


def word_shares(tokens: Iterable[Share], contents: Sequence[str]) -> list[Share]:
    """Return the shares of words: those of a word's tokens added up. White space before a word is not part of it.

    Args:
        tokens: In the order of the text, without overlaps.
        contents: The content of every message, by its position.
    """
    found: list[Share] = []
    for token in tokens:
        text = contents[token.message]
        last = found[-1] if found else None
        if last is not None and last.message == token.message and _continues(text, last, token):
            found[-1] = Share(token.message, last.start, token.end, last.share + token.share)
            continue
        own = text[token.start : token.end]
        space = len(own) - len(own.lstrip()) if own.strip() else 0
        found.append(Share(token.message, token.start + space, token.end, token.share))
    return found


def steps_of(words: Sequence[Share]) -> list[int]:
    """Return the shade of each word, from -STEPS (away from the unwanted answers) to STEPS, by the largest share."""
    largest = max((abs(word.share) for word in words), default=0.0)
    return [round(STEPS * word.share / largest) if largest else 0 for word in words]


def shaded(
    text: str, words: Sequence[Share], steps: Sequence[int], limit: int = MAX_SHOWN
) -> Iterator[tuple[Piece, int]]:
    """Yield the pieces of a text as `pieces` does, each with its shade.

    Args:
        text: The message's content.
        words: The words of this message, in order, without overlaps.
        steps: The shade of each word.
        limit: Most characters to show.
    """
    # `pieces` turns CR LF into one character, so the ends of the words have to move.
    ends = [
        (word.start - text.count("\r\n", 0, word.start), word.end - text.count("\r\n", 0, word.end), step)
        for word, step in zip(words, steps, strict=True)
        if step
    ]
    position, number = 0, 0
    for piece in pieces(text, limit):
        length = len(piece.text) or piece.count
        start, stop = position, position + length
        while start < stop:
            while number < len(ends) and ends[number][1] <= start:
                number += 1
            inside = number < len(ends) and ends[number][0] <= start
            step = ends[number][2] if inside else 0
            boundary = stop
            if number < len(ends):
                boundary = min(stop, ends[number][1] if inside else ends[number][0])
            if piece.text:
                yield Piece(text=piece.text[start - position : boundary - position]), step
            else:
                yield Piece(code=piece.code, name=piece.name, count=boundary - start), step
            start = boundary
        position = stop


def _continues(text: str, last: Share, token: Share) -> bool:
    """Whether a token continues the word that ends where the token begins."""
    if token.start != last.end or token.end - last.start > LONGEST_WORD:
        return False
    before, after = text[token.start - 1], text[token.start]
    return all(character.isalnum() and unicodedata.east_asian_width(character) != "W" for character in (before, after))
