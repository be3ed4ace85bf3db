"""Samples in flat arrays are the samples that were put in."""

import numpy as np
import pytest

from worker.training.encoded_samples import EncodedSamples
from worker.training.encoding import LEFT_OUT
from worker.training.tokenization import IGNORED, TokenizedSample

SAMPLES = [
    TokenizedSample((5, 6, 2_000_000_000), (IGNORED, 6, 2_000_000_000), tokens_left_out=7, control_tokens=2),
    LEFT_OUT,
    TokenizedSample((), ()),
    TokenizedSample((8, 9), (8, IGNORED)),  # The first token is never predicted.
    TokenizedSample((5, 6, 4), (IGNORED, 6, IGNORED)),
]


def test_each_sample_comes_back_as_it_was() -> None:
    encoded = EncodedSamples(SAMPLES)
    assert list(encoded) == SAMPLES
    assert [encoded[row] for row in (4, 1, 0)] == [SAMPLES[4], LEFT_OUT, SAMPLES[0]]
    assert len(encoded) == 5
    assert EncodedSamples.of(encoded) is encoded
    assert list(EncodedSamples.of(SAMPLES)) == SAMPLES


def test_what_is_known_of_all_at_once_is_what_each_says() -> None:
    encoded = EncodedSamples(SAMPLES)
    assert encoded.lengths().tolist() == [len(sample.ids) for sample in SAMPLES]
    assert [encoded.length(row) for row in range(5)] == [len(sample.ids) for sample in SAMPLES]
    assert encoded.has_loss().tolist() == [sample.has_loss for sample in SAMPLES] == [True, False, False, False, True]
    np.testing.assert_array_equal(encoded.tokens_left_out(), [7, np.nan, 0, 0, 0])
    assert encoded.highest_id() == 2_000_000_000
    assert [encoded.first_row_with(least) for least in (0, 6, 8, 2_000_000_000)] == [0, 0, 0, 0]
    assert EncodedSamples(SAMPLES[1:]).first_row_with(9) == 2
    with pytest.raises(ValueError, match="no sample has a token id"):
        encoded.first_row_with(2_000_000_001)
    encoded.append(SAMPLES[0])  # Nothing that was returned keeps it from growing.
    assert encoded.lengths().tolist()[-2:] == [3, 3]


def test_without_samples() -> None:
    encoded = EncodedSamples()
    assert encoded.lengths().tolist() == encoded.has_loss().tolist() == list(encoded) == []
    assert encoded.highest_id() == 0


def test_a_label_that_is_not_the_tokens_id_would_be_lost_and_is_refused() -> None:
    with pytest.raises(ValueError, match="not its token's id"):
        EncodedSamples([TokenizedSample((5, 6), (IGNORED, 7))])
