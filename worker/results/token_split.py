"""How the alignment of the first samples is split over their tokens: as a run records it, and over all seeds."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.training.token_places import Place, merged

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NOWHERE = -1
"""The message number of a token that represents no character of any message."""

ARRAYS = ("row", "probe", "size", "message", "start", "end", "value")
"""Fields that are stored as arrays, under names that begin with tokens_."""


@dataclass(frozen=True)
class TokenSplit:
    """The split of one run, for n samples with T tokens in total, sample by sample."""

    row: Integers
    """[n]: the sample."""
    probe: Integers
    """[n], counted from 0; a sample may occur for several probes."""
    size: Integers
    """[n]: number of tokens with loss."""
    message: Integers
    """[T]: the message whose characters the token represents, counted from 0; NOWHERE if it represents none."""
    start: Integers
    """[T]: offset in characters at which the token begins in the message's content."""
    end: Integers
    """[T]: offset at which it ends."""
    value: Floats
    """[T]: the token's part of the sample's alignment times the length of its gradient."""

    @classmethod
    def made(cls, parts: Sequence[tuple[int, int, Sequence[Place | None], Floats]]) -> "TokenSplit":
        """Build the split from row, probe, places and values of each sample."""
        places = [place or Place(NOWHERE, 0, 0) for _, _, own, _ in parts for place in own]
        return cls(
            row=np.array([row for row, _, _, _ in parts], dtype=np.int64),
            probe=np.array([probe for _, probe, _, _ in parts], dtype=np.int64),
            size=np.array([len(own) for _, _, own, _ in parts], dtype=np.int64),
            message=np.array([place.message for place in places], dtype=np.int64),
            start=np.array([place.start for place in places], dtype=np.int64),
            end=np.array([place.end for place in places], dtype=np.int64),
            value=np.concatenate([np.empty(0), *(values for _, _, _, values in parts)]),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "TokenSplit | None":
        """Rebuild the split from what `arrays` returned; None if the recording has none."""
        if "tokens_row" not in arrays:
            return None
        return cls(**{name: np.asarray(arrays[f"tokens_{name}"]) for name in ARRAYS})

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of the split under names that a recording does not use otherwise."""
        return {f"tokens_{name}": getattr(self, name) for name in ARRAYS}

    def samples(self) -> Iterator[tuple[tuple[int, int], list[Place | None], Floats]]:
        """Yield (row, probe), places, and values of each sample."""
        ends = np.cumsum(self.size)
        for row, probe, end, size in zip(self.row.tolist(), self.probe.tolist(), ends, self.size, strict=True):
            part = slice(end - size, end)
            spans = zip(*(own[part].tolist() for own in (self.message, self.start, self.end)), strict=True)
            yield (row, probe), [None if span[0] == NOWHERE else Place(*span) for span in spans], self.value[part]


@dataclass(frozen=True)
class SampleSplit:
    """The split of one sample toward one probe, over all seeds that examined it."""

    row: int
    probe: int
    tokens: Sequence[tuple[Place, float]]
    """In the order of the text; places do not overlap. The sizes of all shares, `elsewhere` included, add up to 1."""
    elsewhere: float
    """Share of the tokens that represent nothing in a message, such as the mark that ends an answer."""


def split_over_seeds(splits: Sequence[TokenSplit | None]) -> list[SampleSplit]:
    """Add up the seeds' values, and express those of each sample as shares of the sum of their sizes.

    Args:
        splits: One per seed; None for a run that recorded no split.

    Returns:
        The splits by row and probe. Samples whose values are all zero, or not finite, are left out.
    """
    found: dict[tuple[int, int], tuple[list[Place | None], list[Floats]]] = defaultdict(lambda: ([], []))
    for split in splits:
        for key, places, values in split.samples() if split is not None else ():
            own, of_seeds = found[key]
            own[:] = places
            of_seeds.append(values)
    shares = []
    for (row, probe), (places, of_seeds) in sorted(found.items(), key=lambda item: item[0]):
        tokens, elsewhere = merged(places, np.sum(of_seeds, axis=0).tolist())
        size = abs(elsewhere) + sum(abs(value) for _, value in tokens)
        if np.isfinite(size) and size > 0:
            shares.append(SampleSplit(row, probe, [(place, value / size) for place, value in tokens], elsewhere / size))
    return shares
