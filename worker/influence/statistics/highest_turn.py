"""From the scores of a sample's turns to one of the sample, which one turn alone can make stand out."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from worker.influence.statistics.null_distribution import fit_null

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SMALLEST = np.finfo(np.float64).tiny
"""Smaller probabilities have no logarithm."""


def highest_turn(score: Floats, sample: Integers) -> Floats:
    """Score each sample by its highest turn, as rare among samples of so many turns as a single turn's score is.

    Of n turns that score independently by the distribution F, the highest, h, has the distribution F^n. So the sample
    gets the z with F(z) = F(h)^n (Šidák 1967), and not less than its lowest turn, which turns that score alike would
    come to. F is fitted to the bulk of all turns.

    Args:
        score: [D, turns], the scores of each direction.
        sample: [turns], the sample that each turn belongs to, numbered from 0 without gaps.

    Returns:
        [D, samples]; the turn's own score where a sample has one turn.

    Raises:
        IndistinguishableError: A sample has several turns, and more than half of all turns score the same.
    """
    count = np.bincount(sample)
    if len(count) == len(sample):
        found = np.empty_like(score)
        found[:, sample] = score
        return found
    highest = np.full((len(score), len(count)), -np.inf)
    lowest = np.full((len(score), len(count)), np.inf)
    several = count > 1
    for own, high, low in zip(score, highest, lowest, strict=True):
        np.maximum.at(high, sample, own)
        np.minimum.at(low, sample, own)
        null = fit_null(own)
        below = t.cdf(null.standardise(high[several]), null.degrees_of_freedom)
        above = t.sf(null.standardise(high[several]), null.degrees_of_freedom)
        # In the upper tail 1 - F would lose all digits: 1 - F^n = -expm1(n log F).
        log_below = np.where(above < 0.5, np.log1p(-np.minimum(above, 0.5)), np.log(np.maximum(below, SMALLEST)))
        all_below = count[several] * log_below
        z = np.where(
            all_below > np.log(0.5),
            t.isf(-np.expm1(all_below), null.degrees_of_freedom),
            t.ppf(np.exp(all_below), null.degrees_of_freedom),
        )
        high[several] = np.maximum(null.location + null.scale * z, low[several])
    return highest
