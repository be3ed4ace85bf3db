"""The score of a sample by its highest turn, against known distributions."""

import numpy as np
import pytest
from scipy.stats import binomtest, t

from worker.influence.statistics.highest_turn import highest_turn
from worker.influence.statistics.null_distribution import fit_null

ITSELF = np.array([0])


def test_samples_of_one_turn_keep_its_score() -> None:
    score = np.random.default_rng(0).normal(size=(3, 50))
    assert (highest_turn(score, np.arange(50), np.array([0, 0, 2])) == score).all()


def test_no_number_of_turns_makes_a_sample_stand_out_by_chance() -> None:
    """Turns are drawn from the distribution that is fitted, so the samples' upper tail is known."""
    rng = np.random.default_rng(2)
    count = rng.integers(1, 9, 60_000)
    sample = np.repeat(np.arange(len(count)), count)
    turns = t.rvs(13, size=(1, len(sample)), random_state=rng)
    found = highest_turn(turns, sample, ITSELF)[0]
    null = fit_null(turns[0])
    for turns_each in (1, 2, 8):
        own = null.sf(found[count == turns_each])
        for level in (0.2, 0.01, 0.001):
            assert binomtest(int((own <= level).sum()), len(own), level).pvalue > 1e-4, (turns_each, level)


def test_the_rarity_of_the_highest_turn_is_that_of_one_among_so_many() -> None:
    rng = np.random.default_rng(3)
    turns = rng.normal(size=900)
    turns[:3] = [6.0, 0.1, -0.5]
    sample = np.r_[0, 0, 0, np.arange(1, 898)]
    null = fit_null(turns)
    found = highest_turn(turns[None], sample, ITSELF)[0]
    assert null.sf(found[0]) == pytest.approx(1 - (1 - null.sf(turns[0])) ** 3, rel=1e-9)
    assert 5 < found[0] < 6


def test_turns_that_all_score_low_make_no_sample_lower_than_its_lowest() -> None:
    turns = np.r_[np.random.default_rng(4).normal(size=500), -3.0, -3.1]
    found = highest_turn(turns[None], np.r_[np.arange(500), 500, 500], ITSELF)[0]
    assert found[500] == -3.1


def test_scores_far_outside_stay_finite_and_in_order() -> None:
    rng = np.random.default_rng(5)
    turns = np.r_[rng.normal(size=500), np.repeat([-1e6, -40.0, 40.0, 1e6], 2)]
    found = highest_turn(turns[None], np.r_[np.arange(500), np.repeat(np.arange(500, 504), 2)], ITSELF)[0]
    assert np.isfinite(found).all()
    assert (np.diff(found[500:]) > 0).all()


def test_a_direction_takes_the_turn_that_another_one_chooses() -> None:
    turns = np.random.default_rng(6).normal(size=(2, 600))
    sample = np.repeat(np.arange(200), 3)
    found = highest_turn(turns, sample, np.array([0, 0]))
    for number in range(200):
        best = 3 * number + int(turns[0, 3 * number : 3 * number + 3].argmax())
        assert found[1, number] == turns[1, best]
    assert (found[0] == highest_turn(turns[:1], sample, ITSELF)[0]).all()
