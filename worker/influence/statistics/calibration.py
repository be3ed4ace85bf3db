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
"""One-sided p-values at which tail counts are taken, from where hits are many to where findings lie."""
QQ_POINTS = 200
"""Most points of a QQ plot; more cannot be told apart on a screen."""

SIGNIFICANCE = 0.003
"""Level of each of the three tests behind the warnings: together they fire in less than 2 % of audits with a good
null."""

EXCESS = 1.4
"""A tail count below this multiple of the expected one is no reason for a warning, however many samples there are."""

SHAPE_BINS = 8
"""Bins of the chi-squared test, equally likely under the null."""
SHAPE_EXCESS = 0.03
"""A chi-squared statistic per sample below this is no reason for a warning, however many samples there are; a skew of
0.23 has 0.002."""


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
    """Number of p-values counted, those of all directions together."""
    tails: tuple[TailCount, ...]
    qq_expected: tuple[float, ...]
    qq_observed: tuple[float, ...]


def calibrate(z: Floats, null: Null) -> Calibration:
    """Compare one direction's statistic with its null.

    Findings lie beyond the range on purpose: they are not null.

    Args:
        z: [rows], the statistic; values that are not finite are left out.
        null: The null distribution fitted to it.

    Returns:
        Tail counts and QQ points of the finite values.
    """
    return _calibrate(null.standardise(z[np.isfinite(z)])[None], null.degrees_of_freedom)


def calibrate_placebos(placebo: Floats, degrees_of_freedom: float, *, usable: Mask | None = None) -> Calibration:
    """Compare placebo statistics with a null of the given tail, each direction standardised by its own fit.

    One sample's values depend on each other between directions. The ranges are therefore those of fewer independent
    counts that vary as much (a binomial count clustered by row).

    Args:
        placebo: [D, rows], one statistic per direction; rows with a value that is not finite are left out.
        degrees_of_freedom: Those of the null's tail.
        usable: [rows], the rows to count, such as those not flagged; None for all.

    Returns:
        Tail counts and QQ points of all directions together.
    """
    return _calibrate(_standard(placebo, usable), degrees_of_freedom)


def misfits(
    z: Floats, null: Null, *, placebo: Floats | None = None, usable: Mask | None = None
) -> list[tuple[str, str]]:
    """Test in which ways the null does not fit.

    - null_shape: the middle of z, where the null is fitted, is not a normal distribution (chi-squared, 8 bins).
    - null_tail: more than 1.4 times as many z as expected at the lower end, where no poison lies, have p >= 0.99.
    - placebo_tail: more than 1.4 times as many placebo values as expected lie beyond the 1 % points.

    Args:
        z: [rows], the statistic; values that are not finite are left out.
        null: The null distribution fitted to it.
        placebo: [D, rows], the placebo statistics; None skips their test.
        usable: [rows], the rows whose placebo values count, such as those not flagged; None for all.

    Returns:
        Code and message of every misfit found, empty if the null fits.
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
    """Return usable rows of placebos in units of each direction's own null, [directions with a spread, rows]."""
    kept = np.isfinite(placebo).all(0)
    return standardise_each(placebo)[:, kept if usable is None else kept & usable]


def _calibrate(x: Floats, degrees_of_freedom: float) -> Calibration:
    """Count tails and choose QQ points of x [D, rows], which is in units of the null."""
    p = t.sf(x, degrees_of_freedom)
    tails = []
    # Measured at the level with most hits; further out, single samples agree less between directions.
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
    """Return expected and observed quantiles of sorted x.

    All of them if they are at most `QQ_POINTS`, otherwise spaced evenly in the logit of the rank.
    """
    if not len(x):
        return x, x
    share = (np.arange(len(x)) + 0.5) / len(x)
    if len(x) > QQ_POINTS:
        logit = np.linspace(np.log(share[0] / share[-1]), np.log(share[-1] / share[0]), QQ_POINTS)
        ranks = np.unique(np.clip(np.round(len(x) / (1 + np.exp(-logit)) - 0.5), 0, len(x) - 1).astype(np.int64))
        share, x = share[ranks], x[ranks]
    return np.asarray(t.ppf(share, degrees_of_freedom)), x


def _middle_is_off(z: Floats, null: Null) -> bool:
    """Whether Pearson's chi-squared test rejects the values that the null was fitted to, in equally likely bins."""
    centre = np.median(z)
    half = TRUNCATION * MAD * np.median(np.abs(z - centre))
    inside = z[np.abs(z - centre) <= half]
    low, high = ndtr(null.standardise(np.array([centre - half, centre + half])))
    share = (ndtr(null.standardise(inside)) - low) / (high - low)
    counts, _ = np.histogram(share, bins=SHAPE_BINS, range=(0, 1))
    expected = len(inside) / SHAPE_BINS
    statistic = float(((counts - expected) ** 2).sum() / expected)
    # Bins - 1 degrees of freedom, two of which went into the fitted centre and scale.
    return statistic > chi2.isf(SIGNIFICANCE, SHAPE_BINS - 3) and statistic > SHAPE_EXCESS * len(inside)
