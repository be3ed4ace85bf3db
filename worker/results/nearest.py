"""The samples that are most similar in the model's representation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.results.recording import Recording
from worker.results.views import Singles, representations, unit_length

Integers = NDArray[np.int64]

NEAREST = 5
"""Number of neighbours of a sample."""

PAIRS_AT_ONCE = 20_000_000
"""Cosines computed at once, which bounds their memory."""

PAIRS = 1_000_000_000
"""Most cosines that are computed, which takes a minute or two."""

LEAST_SAMPLES = 200
"""Number of samples whose neighbours are found even if that takes more cosines."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest samples of one sample."""

    row: int
    rows: Integers
    """The nearest first; of samples with the same text, only the first."""
    similarity: Singles
    """Cosine of each."""


def nearest(recordings: Sequence[Recording], text: Integers, asked: Sequence[int]) -> Iterator[Neighbours]:
    """Find the samples whose representations have the largest cosines with those of the rows asked for.

    A representation is the mean over turns, draws and seeds, centred on the draws of its block, which removes what all
    samples share. It is made of those of `representations`, from which the second view of a sample is made.

    Args:
        recordings: One per seed.
        text: [rows], samples with the same text share a number, and a representation.
        asked: Rows in the order of their importance; the last ones are left out if there are too many.

    Yields:
        For each row that was observed, NEAREST others, or fewer if there are no more. A row's own copies count as one,
        with cosine 1.
    """
    ids, vectors = _of_texts(recordings, text)
    order = np.argsort(text, kind="stable")
    starts = np.searchsorted(text[order], ids)
    first = order[starts]
    # The second row of each text is the neighbour of the first; it is the first itself if there is no second.
    follows = np.minimum(starts + 1, len(order) - 1)
    second = np.where(text[order[follows]] == ids, order[follows], first)
    known = {int(number): place for place, number in enumerate(ids)}
    rows = [row for row in asked if int(text[row]) in known]
    rows = rows[: max(LEAST_SAMPLES, PAIRS // max(len(ids), 1))]
    chunk = max(1, PAIRS_AT_ONCE // max(len(ids), 1))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        places = np.array([known[int(text[row])] for row in part])
        cosines = vectors[places] @ vectors.T
        for row, place, own in zip(part, places, cosines, strict=True):
            others = np.where(np.arange(len(ids)) == place, second if row == first[place] else first, first)
            own[place] = 1.0 if others[place] != row else -np.inf
            best = np.argsort(-own, kind="stable") if len(own) <= NEAREST else _largest(own)
            best = best[np.isfinite(own[best])]
            yield Neighbours(row, others[best], own[best])


def _of_texts(recordings: Sequence[Recording], text: Integers) -> tuple[Integers, Singles]:
    """Return the texts that were observed and their representations over all seeds, of unit length."""
    numbers = int(text.max()) + 1
    total: Singles | None = None
    for recording in recordings:
        seen = np.isfinite(recording.observations.alignment[:, 0])
        found = representations(recording, seen, text)
        turns = found.turns[:, 0]
        of_texts = np.zeros((found.text_of_turn[-1] + 1, turns.shape[1]), dtype=np.float32)
        np.add.at(of_texts, found.text_of_turn, turns)
        own = np.empty(len(of_texts), dtype=np.int64)
        own[found.text_of_draw] = text[recording.observations.row[seen]]
        if total is None:
            total = np.zeros((numbers, turns.shape[1]), dtype=np.float32)
        # A seed that an earlier version recorded may hold another projection of wide representations.
        if turns.shape[1] == total.shape[1]:
            total[own] += unit_length(of_texts)
    assert total is not None
    ids = np.flatnonzero(total.any(1)).astype(np.int64)
    return ids, unit_length(total[ids])


def _largest(values: Singles) -> Integers:
    """Return the indices of the NEAREST largest values, the largest first; of equal ones, by index."""
    found = np.argpartition(-values, NEAREST)[: NEAREST + 1]
    found = found[np.lexsort((found, -values[found]))]
    return np.asarray(found[:NEAREST])
