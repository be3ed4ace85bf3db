"""How well the null fits: tail counts, QQ points and warnings, on placebo directions and on the bulk."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binom, chi2, norm, t

from worker.influence.statistics.null_distribution import MAD, TRUNCATION, Null, design_effect, standardise_each

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

TAILS = (0.05, 0.01, 0.001)
QQ_POINTS = 200

SIGNIFICANCE = 0.003
"""Of each of the three tests behind the warnings: together they fire in less than 2 % of audits with a good null."""

EXCESS = 1.4
"""Times the expected tail count below which no number of samples makes a misfit worth a warning."""

SHAPE_BINS = 8
SHAPE_EXCESS = 0.03
"""Chi-squared a sample below which no number of samples makes a misfit of the middle worth a warning; a skew of 0.23
has 0.002."""


@dataclass(frozen=True)
class TailCount:
    """How many p-values lie at or below p, and the range that holds the count in 95 % of audits if the null fits."""

    p: float
    observed: int
    expected: float
    low: int
    high: int


@dataclass(frozen=True)
class Calibration:
    """Tail counts and at most 200 points of a QQ plot, in units of the null's scale."""

    samples: int
    """p-values counted: those of all directions together."""
    tails: tuple[TailCount, ...]
    qq_expected: tuple[float, ...]
    qq_observed: tuple[float, ...]


def calibrate(z: Floats, null: Null) -> Calibration:
    """Of one direction's z [rows] against its null. Findings lie beyond the range on purpose: they are not null."""
    return _calibrate(null.standardise(z[np.isfinite(z)])[None], null.degrees_of_freedom)


def calibrate_placebos(placebo: Floats, degrees_of_freedom: float, *, usable: Mask | None = None) -> Calibration:
    """Of placebo statistics [D, rows], each direction against its own fitted null with the given tail.

    One sample's values depend on each other between directions; the ranges are those of as many independent counts
    as vary as much (a binomial count clustered by row). usable [rows]: the rows to count, such as those not flagged.
    """
    return _calibrate(_standard(placebo, usable), degrees_of_freedom)


def misfits(
    z: Floats, null: Null, *, placebo: Floats | None = None, usable: Mask | None = None
) -> list[tuple[str, str]]:
    """Code and message of every way in which the null does not fit. z [rows], placebo [D, rows].

    - null_shape: the middle of z, where the null is fitted, is not a normal distribution (chi-squared, 8 bins).
    - null_tail: more than 1.4 times as many z as expected at the lower end, where no poison lies, have p >= 0.99.
    - placebo_tail: more than 1.4 times as many placebo values as expected lie beyond the 1 % points.
    """
    z = z[np.isfinite(z)]
    found = []
    if _middle_is_off(z, null):
        found.append(
            (
                "null_shape",
                "The middle of the distribution of z is not bell-shaped: the data may hold several kinds of samples, "
                "or many equal ones. p and q are unreliable; rely on the ranks, or audit the kinds separately.",
            )
        )
    below = int(np.count_nonzero(null.standardise(z) <= -t.isf(0.01, null.degrees_of_freedom)))
    if below > EXCESS * 0.01 * len(z) and binom.sf(below - 1, len(z), 0.01) < SIGNIFICANCE:
        found.append(
            (
                "null_tail",
                f"{below} samples lean away from the behaviour further than the lowest 1 % should, where "
                f"{0.01 * len(z):.0f} belong. Extreme values are more common in this data than the error rate allows "
                "for: more than the stated share of the flags may be false.",
            )
        )
    if placebo is not None:
        x = _standard(placebo, usable)
        hits = np.abs(x) >= t.isf(0.01, null.degrees_of_freedom)
        excess = (hits.sum() - 0.02 * x.size) / np.sqrt(max(0.02 * 0.98 * x.size * design_effect(hits), 1.0))
        if hits.sum() > EXCESS * 0.02 * x.size and excess > norm.isf(SIGNIFICANCE):
            found.append(
                (
                    "placebo_tail",
                    f"For directions that stand for no behaviour, {hits.mean():.1%} of the samples have an extreme "
                    "value, where 2 % belong. More than the stated share of the flags may be false.",
                )
            )
    return found


def _standard(placebo: Floats, usable: Mask | None) -> Floats:
    kept = np.isfinite(placebo).all(0)
    return standardise_each(placebo)[:, kept if usable is None else kept & usable]


def _calibrate(x: Floats, degrees_of_freedom: float) -> Calibration:
    """x [D, rows] in units of the null."""
    p = t.sf(x, degrees_of_freedom)
    tails = []
    # Measured where hits are many; further out single samples agree less.
    dependence = design_effect(p <= TAILS[0]) if len(x) > 1 else 1.0
    for level in TAILS:
        low, high = binom.interval(0.95, max(1, round(x.size / dependence)), level)
        tails.append(
            TailCount(
                level, int((p <= level).sum()), level * x.size, int(low * dependence), int(np.ceil(high * dependence))
            )
        )
    expected, observed = _qq(np.sort(x, axis=None), degrees_of_freedom)
    return Calibration(x.size, tuple(tails), tuple(expected.tolist()), tuple(observed.tolist()))


def _qq(x: Floats, degrees_of_freedom: float) -> tuple[Floats, Floats]:
    """Expected and observed quantiles of sorted x: all where they are few, else evenly spaced in the rank's logit."""
    if not len(x):
        return x, x
    share = (np.arange(len(x)) + 0.5) / len(x)
    if len(x) > QQ_POINTS:
        logit = np.linspace(np.log(share[0] / share[-1]), np.log(share[-1] / share[0]), QQ_POINTS)
        ranks = np.unique(np.clip(np.round(len(x) / (1 + np.exp(-logit)) - 0.5), 0, len(x) - 1).astype(np.int64))
        share, x = share[ranks], x[ranks]
    return np.asarray(t.ppf(share, degrees_of_freedom)), x


def _middle_is_off(z: Floats, null: Null) -> bool:
    """Pearson's chi-squared of the values that the null was fitted to, in bins equally likely under it."""
    centre = np.median(z)
    half = TRUNCATION * MAD * np.median(np.abs(z - centre))
    inside = z[np.abs(z - centre) <= half]
    low, high = ndtr(null.standardise(np.array([centre - half, centre + half])))
    share = (ndtr(null.standardise(inside)) - low) / (high - low)
    counts, _ = np.histogram(share, bins=SHAPE_BINS, range=(0, 1))
    expected = len(inside) / SHAPE_BINS
    statistic = float(((counts - expected) ** 2).sum() / expected)
    # Two of the bins' degrees of freedom went into centre and scale.
    return statistic > chi2.isf(SIGNIFICANCE, SHAPE_BINS - 3) and statistic > SHAPE_EXCESS * len(inside)
