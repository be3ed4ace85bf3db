"""The null distribution of Z: centre and scale from the bulk of the data, the tail a Student t."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import t

from worker.influence.errors import IndistinguishableError

Floats = NDArray[np.float64]

TAIL_DEGREES_OF_FREEDOM = 13.0
"""Degrees of freedom of the Student t tail from 500 samples on: the most that holds the false discovery rate at 1 %
poison under the skew and kurtosis that real nulls show (docs/decisions/0011)."""

SCALE_EFFICIENCY = 0.145
"""The truncated fit's scale varies over audits as the standard deviation of 0.145 N Gaussian values (simulated)."""

SHAPE_DEGREES_OF_FREEDOM = 1 / (1 / TAIL_DEGREES_OF_FREEDOM - 1 / (SCALE_EFFICIENCY * 500))
"""The part of the 13 that is due to the null's own shape, with the error of the scale at 500 samples taken out."""

TRUNCATION = 1.5
"""Robust standard deviations around the median within which the null is fitted: poison lies outside."""

SCALES = (0.7, 1.5)
"""Range of the fitted scale in robust standard deviations. Few samples can make the likelihood rise toward a flat
density; the bounds keep the scale near the robust one."""

MAD = 1.482602218505602
"""Makes the median absolute deviation a standard deviation for Gaussian data."""

LEAST_VALUES = 10
"""With fewer values, centre and scale would be guesses."""


@dataclass(frozen=True)
class Null:
    """Null distribution of Z: location + scale * Student t. p says "unlike the bulk", not "no influence"."""

    location: float
    scale: float
    degrees_of_freedom: float

    def standardise(self, z: Floats) -> Floats:
        """Return z in units of the null."""
        return np.asarray((z - self.location) / self.scale)

    def sf(self, z: Floats) -> Floats:
        """Return the one-sided p-value of each z."""
        return np.asarray(t.sf(self.standardise(z), self.degrees_of_freedom))

    def isf(self, p: float) -> float:
        """Return the z whose one-sided p-value is p."""
        return float(self.location + self.scale * t.isf(p, self.degrees_of_freedom))

    def pdf(self, z: Floats) -> Floats:
        """Return the density at each z."""
        return np.asarray(t.pdf(self.standardise(z), self.degrees_of_freedom) / self.scale)


def attainable_degrees_of_freedom(independent: float) -> float:
    """Return the tail's degrees of freedom, at most 13, given how many independent values the scale was estimated from.

    The scale is as uncertain as that of `independent` Gaussian values. An estimated scale turns even Gaussian values
    into a Student t. Its part and the shape's add up as 1 / nu (docs/decisions/0012): 13 from 500 samples on, 10 at
    200, 5 at 50.
    """
    return min(TAIL_DEGREES_OF_FREEDOM, 1 / (1 / SHAPE_DEGREES_OF_FREEDOM + 1 / independent))


def fit_null(z: Floats, *, degrees_of_freedom: float = TAIL_DEGREES_OF_FREEDOM) -> Null:
    """Fit the null to the middle of all samples, where poison hardly lies.

    Location and scale are those of `fit_location_and_scale`.

    Args:
        z: [rows], the statistic; finite.
        degrees_of_freedom: Those of the tail, unless the number of rows supports fewer only.

    Returns:
        The null in units of z.

    Raises:
        IndistinguishableError: There are fewer than 10 values, or more than half of them are equal.
    """
    location, scale = fit_location_and_scale(z)
    attainable = attainable_degrees_of_freedom(SCALE_EFFICIENCY * len(z))
    return Null(float(location), float(scale), min(degrees_of_freedom, attainable))


def fit_null_to_trusted(z: Floats, *, degrees_of_freedom: float = TAIL_DEGREES_OF_FREEDOM) -> Null:
    """Fit the null to the statistic of the trusted samples alone: their mean and standard deviation.

    The scale includes the centre's own error (times sqrt(1 + 1/n)), the tail the scale's.

    Args:
        z: [trusted], finite.
        degrees_of_freedom: Upper limit of those of the tail.

    Returns:
        The null in units of z.

    Raises:
        IndistinguishableError: All trusted samples have the same statistic.
    """
    spread = float(z.std(ddof=1))
    if spread == 0.0:
        raise IndistinguishableError(
            "All trusted samples have the same statistic, so that the normal cannot be learnt from them.",
            "Mark samples of different content as trusted, or leave the trusted column out.",
        )
    tail = min(degrees_of_freedom, attainable_degrees_of_freedom(len(z) - 1))
    return Null(float(z.mean()), spread * math.sqrt(1 + 1 / len(z)), tail)


def fit_location_and_scale(z: Floats) -> tuple[Floats, Floats]:
    """Fit a normal distribution truncated to median +- 1.5 robust SD by maximum likelihood, to each row of [..., rows].

    It assumes nothing about how many samples are poisoned or how far out they lie (Efron 2004, empirical null).

    Returns:
        Location and scale, [...] each.

    Raises:
        IndistinguishableError: There are fewer than 10 values, or more than half of them are equal.
    """
    if z.shape[-1] < LEAST_VALUES:
        raise IndistinguishableError(
            f"Only {z.shape[-1]} different samples were observed; to know the normal it takes {LEAST_VALUES} or more."
        )
    centre = np.median(z, axis=-1, keepdims=True)
    robust = MAD * np.median(np.abs(z - centre), axis=-1, keepdims=True)
    if np.any(robust == 0.0):
        raise IndistinguishableError(
            "More than half of the samples have the same statistic, so that the normal cannot be learnt from them."
        )
    x = (z - centre) / robust
    inside = np.abs(x) <= TRUNCATION
    count = inside.sum(-1)
    mean = np.where(inside, x, 0.0).sum(-1) / count
    square = np.where(inside, x * x, 0.0).sum(-1) / count
    location, scale = _truncated_normal(mean, square)
    return centre[..., 0] + robust[..., 0] * location, robust[..., 0] * scale


def _truncated_normal(mean: Floats, square: Floats) -> tuple[Floats, Floats]:
    """Return location and scale whose normal density on [-TRUNCATION, TRUNCATION] fits first and second moment best.

    Newton's method in the natural parameters a = location / scale^2 and b = -1 / (2 scale^2), in which the log
    likelihood a mean + b square - log(normaliser) is concave and the bound on the scale is a box.
    """
    lowest, highest = (-0.5 / scale**2 for scale in SCALES)
    a, b = np.array(mean), np.full_like(mean, -0.5)
    for _ in range(60):
        first, second, third, fourth = _moments(a, b)
        aa, ab, bb = second - first**2, third - first * second, fourth - second**2
        up_a, up_b = mean - first, square - second
        step_b = np.clip(b + (aa * up_b - ab * up_a) / (aa * bb - ab**2), lowest, highest) - b
        step_a = (up_a - ab * step_b) / aa
        b = b + step_b
        # A location beyond one robust SD is a failure of the fit; 2b < 0 turns the bound on it into one on a.
        a_new = np.clip(a + step_a, 2 * b, -2 * b)
        moved = np.max(np.abs(a_new - a) + np.abs(step_b))
        a = a_new
        if moved < 1e-12:
            break
    return -0.5 * a / b, np.sqrt(-0.5 / b)


def _moments(a: Floats, b: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the first four raw moments of the density ~ exp(a x + b x^2) on [-TRUNCATION, TRUNCATION]."""
    scale = np.sqrt(-0.5 / b)
    location = a * scale**2
    low, high = (-TRUNCATION - location) / scale, (TRUNCATION - location) / scale
    mass = ndtr(high) - ndtr(low)
    left, right = (np.exp(-0.5 * edge**2) / np.sqrt(2 * np.pi) / mass for edge in (low, high))
    # Moments of the standardised variable by partial integration, then the binomial theorem.
    y1 = left - right
    y2 = 1 + low * left - high * right
    y3 = 2 * y1 + low**2 * left - high**2 * right
    y4 = 3 * y2 + low**3 * left - high**3 * right
    first = location + scale * y1
    second = location**2 + 2 * location * scale * y1 + scale**2 * y2
    third = location**3 + 3 * location**2 * scale * y1 + 3 * location * scale**2 * y2 + scale**3 * y3
    fourth = (
        location**4
        + 4 * location**3 * scale * y1
        + 6 * location**2 * scale**2 * y2
        + 4 * location * scale**3 * y3
        + scale**4 * y4
    )
    return first, second, third, fourth


HEAVIEST_TAIL = 5.0
"""The fewest degrees of freedom that placebos can lead to."""

TAIL_BINS = (2.0, 2.5, 3.0, 3.5, 4.0)
"""Edges in null standard deviations; everything beyond the last counts the same, however far out it is."""


def tail_degrees_of_freedom(placebo: Floats, *, usable: NDArray[np.bool_] | None = None) -> float:
    """Estimate the degrees of freedom of the null's tail from placebos: 13, or fewer if their tails are heavy.

    Every direction is standardised by its own fitted null and turned so that its heavier side lies above. The counts
    beyond 2, 2.5, ... 4 are matched to a Student t by maximum likelihood, discounted for the dependence between
    directions. Of the values that this likelihood cannot distinguish (one standard error) the largest is taken, so that
    few data keep the default.

    The result is never above what `fit_null` uses by itself: placebos are centred, so they cannot show how skewed the
    probe's own direction is (docs/decisions/0012).

    Args:
        placebo: [D, rows], one statistic per direction; rows with a value that is not finite are left out.
        usable: [rows], the rows that count; leaves out flagged ones, which may stand out in placebo directions as well.
            None for all.

    Returns:
        Degrees of freedom: at most 13, and at least `HEAVIEST_TAIL` unless the number of rows supports fewer.
    """
    observed = np.isfinite(placebo).all(0)
    most = attainable_degrees_of_freedom(SCALE_EFFICIENCY * max(int(observed.sum()), 1))
    x = standardise_each(placebo)[:, observed if usable is None else observed & usable]
    if not x.size:
        return most
    clipped = np.clip(x, -TAIL_BINS[-1], TAIL_BINS[-1])
    third = ((clipped - clipped.mean(1, keepdims=True)) ** 3).mean(1, keepdims=True)
    x = np.where(third < 0, -x, x)
    beyond = np.array([np.count_nonzero(x > edge) for edge in TAIL_BINS])
    counts = np.r_[x.size - beyond[0], beyond[:-1] - beyond[1:], beyond[-1]]

    nu = 1 / np.linspace(1 / most, max(1 / HEAVIEST_TAIL, 1 / most), 81)
    tails = t.sf(np.array(TAIL_BINS)[:, None], nu)
    mass = np.vstack([1 - tails[0], tails[:-1] - tails[1:], tails[-1]])
    likelihood = counts @ np.log(mass) / design_effect(x > TAIL_BINS[0])
    return float(nu[likelihood >= likelihood.max() - 0.5].max())


def standardise_each(z: Floats) -> Floats:
    """Return z [D, rows] in units of each direction's own fitted null, [directions with a spread, rows].

    NaN stays NaN. With fewer than 10 rows observed in all directions, none is left.
    """
    observed = np.isfinite(z).all(0)
    if np.count_nonzero(observed) < LEAST_VALUES:
        return np.empty((0, z.shape[1]))
    spread = np.median(np.abs(z[:, observed] - np.median(z[:, observed], axis=1, keepdims=True)), axis=1)
    z = z[spread > 0]
    if not len(z):
        return z
    location, scale = fit_location_and_scale(z[:, observed])
    return np.asarray((z - location[:, None]) / scale[:, None])


def design_effect(hits: NDArray[np.bool_]) -> float:
    """Return the variance of a count of hits [D, rows] over that of as many independent ones, at least 1.

    The larger of the clustering by row and the clustering by direction counts.
    """
    directions, rows = hits.shape
    single = max(float(hits.mean() * (1 - hits.mean())), 1e-12)
    by_row = hits.sum(0).var() / (directions * single)
    by_direction = hits.sum(1).var() / (rows * single)
    return max(1.0, float(by_row), float(by_direction))
