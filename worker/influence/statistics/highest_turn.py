"""From the scores of a sample's turns to one of the sample, which one turn alone can make stand out."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from worker.influence.statistics.null_distribution import Null, fit_null

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SMALLEST = np.finfo(np.float64).tiny
"""Smaller probabilities have no logarithm."""


def highest_turn(score: Floats, sample: Integers, chosen_by: Integers) -> Floats:
    """Score each sample by its highest turn, as rare among samples of so many turns as a single turn's score is.

    Of n turns that score independently by the distribution F, the highest, h, has the distribution F^n. So the sample
    gets the z with F(z) = F(h)^n (Šidák 1967), and not less than its lowest turn, which turns that score alike would
    come to. F is fitted to the bulk of all turns. A direction may take the turn that is the highest in another one;
    then the score of this turn is taken as it is.

    Args:
        score: [D, turns], the scores of each direction.
        sample: [turns], the sample that each turn belongs to, ascending from 0 without gaps.
        chosen_by: [D], the direction in which a direction's turn is the highest; its own number for itself.

    Returns:
        [D, samples]; the turn's own score where a sample has one turn.

    Raises:
        IndistinguishableError: A sample has several turns, and more than half of all turns score the same.
    """
    count = np.bincount(sample)
    if len(count) == len(sample):
        return score
    first = np.cumsum(count) - count
    several = count > 1
    found = np.empty((len(score), len(count)))
    # By rising score within each sample, the last turn is the highest. One order serves all that follow a direction.
    leaders = np.unique(chosen_by[chosen_by != np.arange(len(score))])
    highest = {int(leader): np.lexsort((score[leader], sample))[first + count - 1] for leader in leaders}
    for number, own in enumerate(score):
        if chosen_by[number] == number:
            high, low = np.maximum.reduceat(own, first), np.minimum.reduceat(own, first)
            high[several] = np.maximum(_as_rare(high[several], count[several], fit_null(own)), low[several])
            found[number] = high
        else:
            found[number] = own[highest[int(chosen_by[number])]]
    return found


def _as_rare(highest: Floats, count: Integers, null: Null) -> Floats:
    """Return the z of a single turn that is as rare as the highest of `count` turns."""
    below = t.cdf(null.standardise(highest), null.degrees_of_freedom)
    above = t.sf(null.standardise(highest), null.degrees_of_freedom)
    # In the upper tail 1 - F would lose all digits: 1 - F^n = -expm1(n log F).
    log_below = np.where(above < 0.5, np.log1p(-np.minimum(above, 0.5)), np.log(np.maximum(below, SMALLEST)))
    all_below = count * log_below
    z = np.where(
        all_below > np.log(0.5),
        t.isf(-np.expm1(all_below), null.degrees_of_freedom),
        t.ppf(np.exp(all_below), null.degrees_of_freedom),
    )
    return np.asarray(null.location + null.scale * z)
