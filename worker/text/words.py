"""Text as numbers: normalised words, their numbers, and the set of word trigrams of each text.

Texts are untrusted: any string is accepted, whatever its size and script, and even with broken code points.
"""

import re
import unicodedata
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHINGLE = 3
"""Words in a shingle. With three, every shingle of a short phrase around a slot contains the word in the slot."""

SIMILAR = 0.8
"""Texts with at least this Jaccard similarity of word trigrams are near-duplicates."""

NORMALISED_AT_ONCE = 1_000
"""Characters normalised at once. The time is quadratic in a run of combining marks: a megabyte of them would take
minutes."""

EXACT_WORDS = 2_000_000
"""Number of different words that get a number of their own; later ones share numbers, so that noise cannot fill the
memory."""

SHARED_NUMBERS = 2**22
"""Numbers that later words share: enough that two of them seldom get the same."""

CHUNK = 1_000_000
"""Words worked on at once, which bounds the memory of intermediate arrays."""

_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Thai, Lao, Khmer, Japanese and Chinese are written without spaces, so each character is a word."""
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
"""Soft hyphens, zero-width and bidirectional control characters, which could hide that two texts are equal."""


def normalise(text: str) -> str:
    """Return the text in NFKC, case folded, without invisible format characters, with white space collapsed."""
    if not text.isascii():
        text = _INVISIBLE.sub("", text)
        cuts = range(0, len(text), NORMALISED_AT_ONCE)
        text = "".join(unicodedata.normalize("NFKC", text[at : at + NORMALISED_AT_ONCE]) for at in cuts)
    return " ".join(text.casefold().split())


def words(text: str) -> list[str]:
    """Return the normalised words of a text."""
    return split(normalise(text))


def split(normalised: str) -> list[str]:
    """Return the words of a text that is normalised already."""
    return _WORD.findall(normalised)


class Vocabulary(dict[str, int]):
    """Numbers words from 1 on in the order of their first appearance; 0 means no word."""

    def __missing__(self, word: str) -> int:
        if len(self) < EXACT_WORDS:
            self[word] = number = len(self) + 1
            return number
        return EXACT_WORDS + 1 + zlib.crc32(word.encode("utf-8", "surrogatepass")) % SHARED_NUMBERS


@dataclass(frozen=True)
class NumberedTexts:
    """Texts as word numbers, end to end."""

    numbers: NDArray[np.int32]
    """[words]: the number of each word."""
    starts: NDArray[np.int64]
    """[texts + 1]; text i is numbers[starts[i] : starts[i + 1]]."""
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.starts) - 1

    def text_of_word(self) -> NDArray[np.int32]:
        """Return which text each word belongs to, [words]."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.starts))


def number(texts: Iterable[str]) -> NumberedTexts:
    """Split texts into words and number them."""
    vocabulary = Vocabulary()
    parts = [np.fromiter(map(vocabulary.__getitem__, words(text)), np.int32) for text in texts]
    starts = np.r_[0, np.cumsum([len(part) for part in parts], dtype=np.int64)]
    return NumberedTexts(np.concatenate([*parts, np.empty(0, np.int32)]), starts, vocabulary)


@dataclass(frozen=True)
class Shingles:
    """The set of word trigrams of each text, as numbers.

    A text of one or two words has one shingle, a text without words has none.
    """

    ids: NDArray[np.int32]
    """[shingles], ascending within a text; equal where the words are equal (up to a 64-bit hash)."""
    hashes: NDArray[np.uint64]
    """[shingles], evenly spread; the same in every process."""
    starts: NDArray[np.int64]
    """[texts + 1]; text i is ids[starts[i] : starts[i + 1]]."""
    frequency: NDArray[np.int32]
    """[different shingles]: number of texts that have each, by id."""

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of different shingles of each text, [texts]."""
        return np.diff(self.starts)

    def text_of_shingle(self) -> NDArray[np.int32]:
        """Return which text each shingle belongs to, [shingles]."""
        return np.repeat(np.arange(len(self.starts) - 1, dtype=np.int32), self.sizes())


def shingles(texts: NumberedTexts) -> Shingles:
    """Return the shingle sets of numbered texts."""
    hashes, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for first, last in chunks(texts.starts):
        found, text, _ = trigrams(texts, first, last)
        order = np.lexsort((found, text))
        found, text = found[order], text[order]
        new = np.r_[True, (found[1:] != found[:-1]) | (text[1:] != text[:-1])][: len(found)]
        hashes.append(found[new])
        sizes.append(np.bincount(text[new] - first, minlength=last - first))
    flat = np.concatenate(hashes)
    # A second copy of a large dataset's shingles would be the peak of memory.
    del hashes
    ids, frequency = _numbered(flat)
    return Shingles(ids, flat, np.r_[0, np.cumsum(np.concatenate(sizes))], frequency)


def trigrams(
    texts: NumberedTexts, first: int, last: int
) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]:
    """Return every trigram of a range of texts; a text of fewer than three words has one, filled up with 0.

    Args:
        texts: The numbered texts.
        first: Index of the first text.
        last: Index after the last text.

    Returns:
        Hash [n], text [n], and the numbers of its words [n, 3].
    """
    start, end = int(texts.starts[first]), int(texts.starts[last])
    lengths = np.diff(texts.starts[first : last + 1])
    text = np.repeat(np.arange(first, last, dtype=np.int32), lengths)
    position = np.arange(start, end)
    left = texts.starts[text + 1] - position
    window = np.zeros((end - start, SHINGLE), np.int32)
    for offset in range(SHINGLE):
        window[: end - start - offset, offset] = texts.numbers[start + offset : end]
        window[left <= offset, offset] = 0
    whole = (left >= SHINGLE) | (position == texts.starts[text])
    window, text = window[whole], text[whole]
    hashed = np.zeros(len(window), np.uint64)
    for offset in range(SHINGLE):
        hashed = _mix(hashed + window[:, offset].astype(np.uint64))
    return hashed, text, window


def chunks(starts: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """Yield ranges (first, last) of whole texts with about CHUNK words each."""
    first, texts = 0, len(starts) - 1
    while first < texts:
        last = int(np.searchsorted(starts, starts[first] + CHUNK, side="right")) - 1
        last = min(max(last, first + 1), texts)
        yield first, last
        first = last


def _numbered(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Give equal hashes equal numbers, and count how often each number occurs.

    It works in parts, since sorting all at once would take many times the memory.
    """
    ids = np.empty(len(hashes), np.int32)
    counts = [np.empty(0, np.int32)]
    given = 0
    parts = min(1 + len(hashes) // CHUNK, 256)
    part_of = (hashes >> np.uint64(56)).astype(np.uint8)
    part_of = (part_of.astype(np.uint16) * parts >> 8).astype(np.uint8)
    for part in range(parts):
        members = np.flatnonzero(part_of == part)
        different, inverse, count = np.unique(hashes[members], return_inverse=True, return_counts=True)
        ids[members] = inverse + given
        given += len(different)
        counts.append(count.astype(np.int32))
    return ids, np.concatenate(counts)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of SplitMix64 (Steele, Lea, Flood 2014) after an odd increment: a bijection of 64 bits."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
