"""Which side a sample is put on, by the probabilities of its kinds."""

import numpy as np

from worker.influence.statistics.detection import detect
from worker.influence.statistics.mixture import Kinds
from worker.results.kinds import sides

ROWS = 400


def test_a_sample_that_is_most_likely_of_the_bulk_has_no_side() -> None:
    z = np.random.default_rng(0).normal(size=ROWS)
    z[:5] = 9.0
    standing_out = detect(z, np.full(ROWS, 2), q=0.05)
    unwanted, fair = np.zeros((2, ROWS))
    unwanted[:5] = 0.95, 0.02, 0.45, 0.3, 0.2
    fair[:5] = 0.01, 0.90, 0.45, 0.1, 0.1
    found = sides([standing_out, standing_out], Kinds(unwanted, fair))
    assert found[:5] == ["toward", "against", "both", None, None]
    assert set(found[5:]) == {None}


def test_a_sample_that_was_not_tested_has_no_side() -> None:
    z = np.random.default_rng(0).normal(size=ROWS)
    z[0] = 9.0
    standing_out = detect(z, np.full(ROWS, 2), q=0.05)
    unwanted = np.where(np.arange(ROWS) == 0, np.nan, 0.0)
    assert sides([standing_out, standing_out], Kinds(unwanted, unwanted))[0] is None
