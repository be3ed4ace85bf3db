"""Estimates how many samples of a large dataset are near-duplicates of an earlier one, by MinHash in little memory.

Near-duplicates are defined as in duplicate_clusters.py: two samples are near-duplicates if both their prompts and their
answers are, and two texts are if their sets of word trigrams have a Jaccard similarity of at least 0.8. Here it is
estimated from 128 MinHash slots (standard error 0.035 at 0.8) instead of computed. Boilerplate is not set aside as in
an audit, which therefore joins fewer samples. Signatures are kept on disk, band by band: for a million samples 512 MB
of disk, and one band of 16 MB in memory.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.text.minhash import BANDS, SLOTS, band_keys, signatures_of_tokens
from worker.text.turns import Conversation, answer, prompt
from worker.text.words import SHINGLE, SIMILAR, normalise, split

METHOD = f"MinHash of {BANDS * SLOTS} slots over word {SHINGLE}-grams of the normalised text"
"""The method as it is named to users beside the count."""

WINDOW = 8
"""Number of neighbours in a band, on each side, that a text is compared with."""

TEXTS_AT_ONCE = 1_000
"""Texts whose signatures are computed at once, which bounds the memory for short texts."""

CHARACTERS_AT_ONCE = 2_000_000
"""Characters of those texts, which bounds the memory for long ones."""

PAIRS_AT_ONCE = 1_000_000
"""Pairs compared at once, which bounds the memory of intermediate arrays."""

Labels = NDArray[np.int64]
"""[texts]: equal for texts in one cluster; the smallest position among them."""


@dataclass(frozen=True)
class Counted:
    """Numbers of near-duplicates in a dataset, as in contract.results.NearDuplicates."""

    rows: int
    exact: int


def count_near_duplicates(samples: Callable[[], Iterable[Conversation]], folder: Path) -> Counted:
    """Count the samples that are near-duplicates of an earlier one.

    In a group of near-duplicates every sample counts except the first.

    Args:
        samples: Returns the conversations from the beginning; called twice.
        folder: An existing folder for temporary files, which are deleted again.

    Returns:
        The number of near-duplicates, and of those that are equal once normalised.
    """
    prompts, same_prompts = _clusters((prompt(sample) for sample in samples()), folder)
    answers, same_answers = _clusters((answer(sample) for sample in samples()), folder)
    rows = len(prompts)
    return Counted(
        rows=rows - _different(prompts, answers),
        exact=rows - _different(same_prompts, same_answers),
    )


def _different(one: Labels, other: Labels) -> int:
    """Return the number of different pairs of labels."""
    order = np.lexsort((other, one))
    new = (np.diff(one[order]) != 0) | (np.diff(other[order]) != 0)
    return int(new.sum()) + min(len(one), 1)


def _clusters(texts: Iterable[str], folder: Path) -> tuple[Labels, Labels]:
    """Return the labels of near-duplicates, and of texts that are equal once normalised."""
    digests = _write_signatures(texts, folder)
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    same: Labels = first[inverse]
    near = same.copy()
    if len(near) > 1:
        for band in range(BANDS):
            for one, other in _candidates(band, near, folder):
                alike = _similarity(one, other, folder) >= SIMILAR
                _join(near, one[alike], other[alike])
    for band in range(BANDS):
        _band(folder, band).unlink()
    return near, same


# ---------------------------------------------------------------- signatures


def _write_signatures(texts: Iterable[str], folder: Path) -> NDArray[np.uint64]:
    """Write the signatures, a file of [texts, SLOTS] per band, and return a hash of each normalised text."""
    digests: list[NDArray[np.uint64]] = []
    with ExitStack() as files:
        bands = [files.enter_context(_band(folder, band).open("wb")) for band in range(BANDS)]
        for batch in _batches(texts):
            hashed = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in batch]
            digests.append(np.frombuffer(b"".join(hashed), np.uint64))
            signatures = signatures_of_tokens([_tokens(text) for text in batch])
            for band, file in enumerate(bands):
                file.write(signatures[:, band * SLOTS : (band + 1) * SLOTS].tobytes())
    return np.concatenate([*digests, np.empty(0, np.uint64)])


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield normalised texts in batches that memory can hold."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(normalise(text))
        characters += len(text)
        if len(batch) >= TEXTS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _tokens(text: str) -> list[bytes]:
    """Return the word trigrams of a text; fewer words are one token, and a text without any word is itself one."""
    found = split(text)
    if not found:
        return [b"\0" + text.encode("utf-8", "surrogatepass")]
    spans = range(max(1, len(found) - SHINGLE + 1))
    return [" ".join(found[at : at + SHINGLE]).encode("utf-8", "surrogatepass") for at in spans]


def _band(folder: Path, band: int) -> Path:
    return folder / f"band-{band}.u32"


def _read_band(folder: Path, band: int) -> NDArray[np.uint32]:
    return np.fromfile(_band(folder, band), np.uint32).reshape(-1, SLOTS)


# ---------------------------------------------------------------- pairs


def _candidates(band: int, labels: Labels, folder: Path) -> Iterator[tuple[Labels, Labels]]:
    """Yield pairs of texts that share the band, are neighbours in it, and are not in one cluster yet."""
    key = band_keys(_read_band(folder, band))
    order = np.argsort(key, kind="stable")
    alone = np.ones(len(key), dtype=bool)
    shares = key[order[1:]] == key[order[:-1]]
    alone[order[1:][shares]] = alone[order[:-1][shares]] = False
    members = np.flatnonzero(~alone)
    # Texts that also share the next band are most likely similar: sort them next to each other.
    next_key = band_keys(_read_band(folder, (band + 1) % BANDS))[members]
    order = members[np.lexsort((next_key, key[members]))]
    for distance in range(1, min(WINDOW, len(order) - 1) + 1):
        one, other = order[:-distance], order[distance:]
        near = key[one] == key[other]
        if not near.any():
            return
        one, other = one[near], other[near]
        for start in range(0, len(one), PAIRS_AT_ONCE):
            span = slice(start, start + PAIRS_AT_ONCE)
            apart = labels[one[span]] != labels[other[span]]
            if apart.any():
                yield one[span][apart], other[span][apart]


def _similarity(one: Labels, other: Labels, folder: Path) -> NDArray[np.float64]:
    """Return the share of equal slots of each pair, which estimates the Jaccard similarity, [pairs]."""
    equal = np.zeros(len(one), np.int64)
    for band in range(BANDS):
        slots = _read_band(folder, band)
        equal += (slots[one] == slots[other]).sum(axis=1)
    return equal / (BANDS * SLOTS)


def _join(labels: Labels, one: Labels, other: Labels) -> None:
    """Put the texts of each pair, and all that are connected through them, in one cluster; changes `labels`."""
    while True:
        low, high = np.minimum(labels[one], labels[other]), np.maximum(labels[one], labels[other])
        apart = low != high
        if not apart.any():
            return
        np.minimum.at(labels, high[apart], low[apart])
        while not np.array_equal(shorter := labels[labels], labels):
            labels[:] = shorter
