"""MinHash signatures in bands (Broder 1997; Leskovec, Rajaraman, Ullman, ch. 3).

Two sets have a MinHash value in common with the probability of their Jaccard similarity. Sets that have all values of
a band in common are candidates, to be compared in another way.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

BANDS = 32
"""Bands of a signature. A pair at 0.8 shares none with probability (1 - 0.8^4)^32 = 5e-8."""

SLOTS = 4
"""MinHash values in a band."""

Signatures = NDArray[np.uint32]
"""[sets, BANDS * SLOTS]; the same in every process."""


def signatures_of_tokens(sets: Sequence[Sequence[bytes]]) -> Signatures:
    """Return the signature of each set of tokens; a token that occurs twice counts once."""
    return _rows(RMinHash.digest_matrix_from_token_sets(sets, BANDS * SLOTS, 0))


def signatures_of_hashes(hashes: NDArray[np.uint64], starts: NDArray[np.int64]) -> Signatures:
    """Return the signature of each set of tokens that are hashed already.

    Args:
        hashes: [tokens], evenly spread over 64 bits.
        starts: [sets + 1]; set i is hashes[starts[i] : starts[i + 1]].
    """
    return _rows(RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts.astype(np.uint64), BANDS * SLOTS, 0))


def band_keys(band: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return a hash of each set's values in a band, [sets]; a collision only costs one comparison.

    Args:
        band: [sets, SLOTS].
    """
    key = np.zeros(len(band), np.uint64)
    for column in band.T:
        key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key


def _rows(matrix: RMinHash) -> Signatures:
    return np.array(matrix.to_rows(), np.uint32).reshape(-1, BANDS * SLOTS)
