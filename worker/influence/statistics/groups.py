"""Group influence: how well the statistic separates a declared group of rows from the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import beta as beta_law
from scipy.stats import norm, t

from worker.influence.tradeoff.gaussian import gaussian_curve
from worker.influence.tradeoff.piecewise import PiecewiseLinear, curve_levels, threshold_errors

Floats = NDArray[np.float64]
Members = NDArray[np.bool_]
Estimator = Literal["mean_difference", "threshold_max"]

POINTS = 200
"""Most points of a returned curve."""

THRESHOLDS = 12
"""Number of thresholds that the lower bound may choose from, fixed by ranks before the data is seen; each costs a share
of the level."""


@dataclass(frozen=True)
class GroupCurve:
    """Trade-off curve of testing for a group (alternative) against the rest (null); large values favour the group.

    mu is signed: below 0 the group's statistics are the smaller ones, and its curve lies above 1 - alpha.
    """

    members: int
    rest: int
    """Rows with a finite statistic outside the group; `members` counts those in it."""
    estimator: Estimator
    """How mu was estimated. "threshold_max" is the method of arXiv 2510.10510, for comparison only: with no effect and
    3 rows against 300 its |mu| is 2.0 in the median."""
    mu: float
    low: float
    """Lower end of mu's interval by Welch; NaN for fewer than 2 members and for threshold_max, which has none."""
    high: float
    """Upper end of the same interval."""
    spread_ratio: float
    """Standard deviation of the members over that of the rest, NaN for one member. Far from 1, no single mu describes
    the curve."""
    mu_fit: float
    """mu of the G_mu with the same area as the one under the empirical curve: by ranks alone, so outliers do not move
    it."""
    fit_gap: float
    """Largest distance of the empirical curve from that of mu_fit. Distances of curves are along alpha or along beta,
    whichever is shorter: where a curve is steep, noise in alpha would otherwise be magnified."""
    lower_bound: float
    """A lower bound of the largest Phi^-1(1 - alpha) - Phi^-1(beta) over all thresholds, at the given confidence; -inf
    if the rows are too few to tell."""
    asymmetry: float
    """Largest distance between the empirical curve and its inverse, both as convex hulls."""
    asymmetry_fit: float
    """The asymmetry of two normal laws with the measured mu and spread_ratio; 0 if the spreads are equal."""
    resolution: float
    """Half width of a 95 % band around the empirical curve (Dvoretzky, Kiefer, Wolfowitz, both samples): gaps and
    asymmetries below it are noise."""
    alpha: Floats
    """Type I errors of the empirical curve over all thresholds, thinned to at most 200 points."""
    beta: Floats
    """Type II errors at the same points."""


def group_curve(
    statistic: Floats,
    members: Members,
    *,
    estimator: Estimator = "mean_difference",
    confidence: float = 0.95,
) -> GroupCurve:
    """Measure the trade-off curve and mu of a group that was declared beforehand.

    mu = (mean of members - mean of rest) / standard deviation of rest. For a group chosen by the same statistic it is
    circular: use `flagged_group_curves`. Rows are taken as independent: near-duplicates make the intervals too narrow.

    Args:
        statistic: [rows]; rows that were not observed are NaN and are left out.
        members: [rows], whether the row belongs to the group.
        estimator: How mu is estimated.
        confidence: Level of the interval and of the lower bound, in (0, 1).

    Returns:
        The curve with mu, its interval, a lower bound and measures of fit.

    Raises:
        ValueError: Shapes or confidence are invalid, the group is empty, fewer than 2 rows lie outside it, or those
            have no spread.
    """
    statistic, members = np.asarray(statistic, dtype=np.float64), np.asarray(members, dtype=bool)
    if statistic.ndim != 1 or statistic.shape != members.shape:
        raise ValueError(f"one statistic and one flag a row, got {statistic.shape} and {members.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, got {confidence}")
    observed = np.isfinite(statistic)
    group, rest = statistic[members & observed], statistic[~members & observed]
    if not len(group):
        raise ValueError("no row of the group was observed; declare a group with rows that were trained on")
    if len(rest) < 2 or np.ptp(rest) == 0:
        raise ValueError("the rows outside the group have no spread to measure it by; declare a smaller group")

    mu, low, high, ratio = _mean_difference(group, rest, confidence)
    alpha, beta = threshold_errors(rest, group)
    if estimator == "threshold_max":
        mu, low, high = _threshold_max(alpha, beta, len(group), len(rest)), float("nan"), float("nan")
    mu_fit, hull = _area_fit(alpha, beta, len(group), len(rest)), PiecewiseLinear(alpha, beta)
    chosen = np.unique(np.linspace(0, len(alpha) - 1, min(POINTS, len(alpha))).round().astype(int))
    return GroupCurve(
        members=len(group),
        rest=len(rest),
        estimator=estimator,
        mu=mu,
        low=low,
        high=high,
        spread_ratio=ratio,
        mu_fit=mu_fit,
        fit_gap=_distance(alpha, beta, gaussian_curve(alpha, mu_fit), gaussian_curve(beta, mu_fit)),
        lower_bound=_lower_bound(group, rest, confidence),
        asymmetry=_distance(hull.alpha, hull.beta, hull.inverse()(hull.alpha), hull(hull.beta)),
        asymmetry_fit=_binormal_asymmetry(abs((group.mean() - rest.mean()) / rest.std(ddof=1)), ratio),
        resolution=float(sum(np.sqrt(np.log(2 / 0.025) / (2 * n)) for n in (len(group), len(rest)))),
        alpha=alpha[chosen],
        beta=beta[chosen],
    )


def flagged_group_curves(
    z: Mapping[int, Floats], flagged: Mapping[int, Members], *, confidence: float = 0.95
) -> dict[tuple[int, int], GroupCurve]:
    """Measure the rows that one seed flagged by the statistic of another, for every ordered pair of different seeds.

    The same rows measured by their own seed would be circular: the top 24 of clean rows have mu 2.5. Rows that every
    seed finds unlike the bulk keep their mu, poisoned or not; only the noise of one seed is removed.

    Args:
        z: By seed, [rows], the statistic.
        flagged: By seed, [rows], whether the seed flagged the row.
        confidence: Level of intervals and lower bounds, in (0, 1).

    Returns:
        Curves by (selecting seed, measuring seed). A seed that flagged nothing selects nothing, and has no pair as the
        first.

    Raises:
        ValueError: There are fewer than two seeds, z and flagged have different seeds, two seeds have the same
            statistics, which would be one run twice, or `group_curve` cannot measure a pair.
    """
    if set(z) != set(flagged):
        raise ValueError("z and flagged are of the same seeds")
    if len(z) < 2:
        raise ValueError("the flagged set needs a second seed to be measured by; audit with at least two")
    curves = {}
    for selecting, chosen in flagged.items():
        for measuring, statistic in z.items():
            if selecting == measuring:
                continue
            if np.array_equal(z[selecting], statistic, equal_nan=True):
                raise ValueError(f"seeds {selecting} and {measuring} have the same statistics; they are one run")
            if np.any(chosen & np.isfinite(statistic)):
                curves[selecting, measuring] = group_curve(statistic, chosen, confidence=confidence)
    return curves


def _mean_difference(group: Floats, rest: Floats, confidence: float) -> tuple[float, float, float, float]:
    """Return mu, both ends of its interval and the ratio of spreads.

    The interval lets the two variances differ (Welch), and accounts for the unit, the rest's standard deviation, being
    estimated itself.
    """
    unit = float(rest.std(ddof=1))
    mu = float((group.mean() - rest.mean()) / unit)
    if len(group) < 2:
        return mu, float("nan"), float("nan"), float("nan")
    ratio = float(group.std(ddof=1) / unit)
    of_group, of_rest = ratio**2 / len(group), 1 / len(rest)
    of_unit = mu**2 / (2 * (len(rest) - 1))
    variance = of_group + of_rest + of_unit
    degrees = variance**2 / (of_group**2 / (len(group) - 1) + (of_rest + of_unit) ** 2 / (len(rest) - 1))
    half = float(t.ppf(0.5 + confidence / 2, degrees) * np.sqrt(variance))
    return mu, mu - half, mu + half, ratio


def _threshold_max(alpha: Floats, beta: Floats, members: int, rest: int) -> float:
    """Return the largest Phi^-1(1 - alpha) - Phi^-1(beta) in size; rates of 0 and 1 count as half a row."""
    alpha = np.clip(alpha, 0.5 / rest, 1 - 0.5 / rest)
    beta = np.clip(beta, 0.5 / members, 1 - 0.5 / members)
    separation = ndtri(1 - alpha) - ndtri(beta)
    return float(separation[np.abs(separation).argmax()])


def _area_fit(alpha: Floats, beta: Floats, members: int, rest: int) -> float:
    """Return the mu at which Phi(-mu / sqrt 2), the area under G_mu, equals that under the curve.

    The area is kept half a pair of rows away from 0 and 1.
    """
    area = float(np.trapezoid(beta, alpha))
    edge = 0.5 / (members * rest)
    return float(-np.sqrt(2) * ndtri(np.clip(area, edge, 1 - edge)))


def _lower_bound(group: Floats, rest: Floats, confidence: float) -> float:
    """Return max over tau of Phi^-1(1 - FPR_ub) - Phi^-1(FNR_ub), with Clopper-Pearson bounds shared by Bonferroni.

    The thresholds are order statistics of the rest whose ranks are fixed beforehand. The rate above one is then exactly
    a Beta variable, within the Clopper-Pearson bound of the count that includes it, and the group's counts are binomial
    given the thresholds. Thresholds placed by the group's own values would void the bound.
    """
    ranks = np.unique(np.geomspace(1, max(0.9 * len(rest), 1), THRESHOLDS).round().astype(int))
    tau = np.sort(rest)[::-1][ranks - 1]
    level = (1 - confidence) / (2 * len(ranks))
    false_positives = np.array([np.sum(rest >= x) for x in tau])
    false_negatives = np.array([np.sum(group < x) for x in tau])
    separation = norm.isf(_upper(false_positives, len(rest), level)) - norm.ppf(
        _upper(false_negatives, len(group), level)
    )
    return float(np.max(separation))


def _upper(count: NDArray[np.int64], n: int, level: float) -> Floats:
    """Return the Clopper-Pearson upper bound of a rate at one-sided error `level`."""
    bound = beta_law.isf(level, count + 1, np.maximum(n - count, 1))
    return np.where(count >= n, 1.0, bound)


def _binormal_asymmetry(mu: float, ratio: float) -> float:
    """Return the distance of h from h^-1, with h(alpha) = Phi((Phi^-1(1 - alpha) - mu) / ratio).

    h is the curve of the rest N(0, 1) and the group N(mu, ratio^2), tested by thresholds.
    """
    if not (np.isfinite(ratio) and ratio > 0):
        return float("nan")
    alpha = curve_levels()
    beta = ndtr((-ndtri(alpha) - mu) / ratio)
    return _distance(alpha, beta, ndtr(-ndtri(alpha) * ratio - mu), ndtr((-ndtri(beta) - mu) / ratio))


def _distance(alpha: Floats, beta: Floats, at_alpha: Floats, at_beta: Floats) -> float:
    """Return the largest distance of points (alpha, beta) from the curve (alpha, at_alpha), (at_beta, beta)."""
    return float(np.minimum(np.abs(beta - at_alpha), np.abs(alpha - at_beta)).max())
