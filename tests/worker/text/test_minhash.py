"""The share of equal values against the Jaccard similarity of sets that are made to have it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.text.minhash import BANDS, SLOTS, Signatures, band_keys, signatures_of_hashes, signatures_of_tokens

PAIRS = 400


def sets_with(shared: int, own: int) -> list[list[int]]:
    """Sets one after the other in pairs: `shared` numbers of both, and `own` of each alone."""
    numbers = iter(np.random.default_rng(0).integers(0, 2**64, PAIRS * (shared + 2 * own), dtype=np.uint64).tolist())
    found = []
    for _ in range(PAIRS):
        both = [next(numbers) for _ in range(shared)]
        found += [both + [next(numbers) for _ in range(own)] for _ in range(2)]
    return found


def of_tokens(sets: list[list[int]]) -> Signatures:
    return signatures_of_tokens([[b"%d" % number for number in own] for own in sets])


def of_hashes(sets: list[list[int]]) -> Signatures:
    starts = np.r_[0, np.cumsum([len(own) for own in sets])]
    return signatures_of_hashes(np.concatenate([np.array(own, np.uint64) for own in sets]), starts)


def equal(signatures: Signatures) -> NDArray[np.float64]:
    return (signatures[::2] == signatures[1::2]).mean(axis=1)


@pytest.mark.parametrize("signatures", [of_tokens, of_hashes])
@pytest.mark.parametrize(("shared", "own"), [(40, 5), (8, 1), (10, 20), (0, 30)])
def test_values_are_equal_with_the_probability_of_the_similarity(signatures, shared: int, own: int) -> None:
    """One value is equal with probability J, so the mean of all has the spread of 400 * 128 such values at most."""
    similarity = shared / (shared + 2 * own)
    found = equal(signatures(sets_with(shared, own)))
    spread = np.sqrt(similarity * (1 - similarity) / (BANDS * SLOTS))
    assert abs(found.mean() - similarity) <= 4 * spread / np.sqrt(PAIRS)
    # Values of one signature are nearly independent: their mean has nearly the spread of a binomial one.
    assert found.std() <= 1.2 * spread


@pytest.mark.parametrize("signatures", [of_tokens, of_hashes])
def test_order_and_repetition_change_nothing(signatures) -> None:
    own = sets_with(5, 3)[0]
    one, other = signatures([own, [*reversed(own), own[0]]])
    np.testing.assert_array_equal(one, other)


def test_keys_are_equal_where_a_band_is() -> None:
    band = np.random.default_rng(0).integers(0, 3, (2000, SLOTS), dtype=np.uint32)
    same = (band[:, None] == band[None]).all(axis=2)
    keys = band_keys(band)
    np.testing.assert_array_equal(keys[:, None] == keys[None], same)
