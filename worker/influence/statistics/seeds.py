"""Several seeds of one audit: what they agree on, and their pooled statistics."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from worker.influence.statistics.mu import MuEstimate
from worker.influence.statistics.null_distribution import fit_location_and_scale
from worker.influence.statistics.row_variance import fit_row_variance

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Consistency:
    """Agreement between seeds on Z and on another statistic: means over the pairs of seeds, NaN with a single seed."""

    spearman: float
    """Rank correlation of Z over the rows seen by both seeds."""
    jaccard: float
    """|A and B| / |A or B| of the flagged sets; pairs that flag nothing do not count."""
    other_spearman: float
    """Rank correlation of the other statistic."""
    other_jaccard: float
    """Jaccard index of each seed's top rows by the other statistic, as many as the seed flags."""


def consistency(z: Floats, flagged: Flags, other: Floats) -> Consistency:
    """Measure how well the seeds agree.

    Args:
        z: [seeds, rows], the statistic; NaN where a seed did not see the row.
        flagged: [seeds, rows], whether the seed flags the row.
        other: [seeds, rows], another statistic to compare; NaN where a seed did not see the row.

    Returns:
        Rank correlations and Jaccard indices, each a mean over pairs of seeds.
    """
    return Consistency(
        _mean_spearman(z),
        _mean_jaccard(flagged),
        _mean_spearman(other),
        _mean_jaccard(top(other, flagged.sum(1))),
    )


def top(values: Floats, counts: NDArray[np.int64]) -> Flags:
    """Return flags of the counts[s] largest values of each seed s, [seeds, rows]; NaN is never among them.

    Args:
        values: [seeds, rows].
        counts: [seeds], how many to flag.
    """
    flags = np.zeros(values.shape, dtype=bool)
    for own, count, marks in zip(values, counts, flags, strict=True):
        order = np.argsort(-np.where(np.isfinite(own), own, -np.inf), kind="stable")[: int(count)]
        marks[order] = np.isfinite(own[order])
    return flags


def seed_correlation(z: Floats) -> float:
    """Return the correlation of the bulk's Z between seeds, from z [seeds, rows]: mean over pairs, within [0, 1].

    (S(a + b)^2 - S(a - b)^2) / (their sum) (Gnanadesikan and Kettenring 1972), with S the scale of the bulk as the null
    has it, which poison hardly moves. It is 0 with one seed.

    Raises:
        IndistinguishableError: As `fit_location_and_scale`.
    """
    standard = _standardised(z, z)
    found = []
    for a, b in combinations(standard, 2):
        both = np.isfinite(a) & np.isfinite(b)
        plus, minus = a[both] + b[both], a[both] - b[both]
        # Seeds that agree on every row leave nothing to fit in their difference.
        if not minus.any():
            found.append(1.0)
            continue
        squares = [float(fit_location_and_scale(values)[1]) ** 2 for values in (plus, minus)]
        found.append((squares[0] - squares[1]) / sum(squares))
    return float(np.clip(np.mean(found), 0.0, 1.0)) if found else 0.0


def pool_z(z: Floats, values: Floats | None = None) -> Floats:
    """Return one Z a row over all seeds, [rows]; NaN for a row that no seed saw.

    Each seed's Z is centred and scaled by its own bulk (`fit_location_and_scale`); the mean over the seeds that saw the
    row is divided by sqrt((1 + (S_i - 1) rho) / S_i), the spread that such a mean has in the bulk. Seeds share the data
    and the base model, so clean rows keep part of their place (rho > 0): S seeds are worth less than S independent
    runs, and p-values must not be multiplied. A new null has to be fitted to the pooled statistic. With one seed, Z
    stays as it is.

    Args:
        z: [seeds, rows], Z of the samples, whose bulk gives centres, scales and rho.
        values: [seeds, n], what to pool in place of z, such as the Z of probe items; then [n] is returned.

    Raises:
        IndistinguishableError: As `fit_location_and_scale`, with several seeds.
    """
    values = z if values is None else values
    if len(z) == 1:
        return values[0]
    seen = np.isfinite(values).sum(0)
    rho = seed_correlation(z)
    mean = np.nansum(_standardised(z, values), axis=0) / np.maximum(seen, 1)
    pooled = mean / np.sqrt((1 + (seen - 1) * rho) / np.maximum(seen, 1))
    return np.where(seen > 0, pooled, np.nan)


def pool_mu(effects: Sequence[MuEstimate], *, confidence: float = 0.95) -> MuEstimate:
    """Return the mean of mu over the seeds that drew a row, with an interval over seeds and draws.

    The interval is for the expectation of mu. A row's spread over seeds holds the seed-to-seed variance and the
    variance within a run together; adding the interval of one run would count the latter twice. With two or three seeds
    a t of S - 1 degrees of freedom alone is very wide, so the variance is taken as alpha + beta mu^2 fitted over rows,
    with the row's own as far as rows scatter around it (`fit_row_variance`). If there are too few rows for that fit,
    the t is used.

    Args:
        effects: The estimate of each seed, at least one, of the same rows. A single one is returned unchanged: what
            another seed would change is then not known.
        confidence: Level of the interval, in (0, 1).
    """
    if len(effects) == 1:
        return effects[0]
    mu, draws = np.array([e.mu for e in effects]), np.array([e.n for e in effects])
    seen = draws > 0
    seeds = seen.sum(0)
    mean = np.where(seen, mu, 0.0).sum(0) / np.maximum(seeds, 1)
    squares = np.where(seen, (mu - mean) ** 2, 0.0).sum(0)
    low, high = fit_row_variance(mean, squares, seeds).interval(
        mean, 1 / np.maximum(seeds, 1), squares, seeds, confidence=confidence
    )
    return MuEstimate(mean, low, high, draws.sum(0))


def _mean_spearman(values: Floats) -> float:
    found = []
    for a, b in combinations(values, 2):
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() >= 3 and np.ptp(a[both]) > 0 and np.ptp(b[both]) > 0:
            found.append(float(spearmanr(a[both], b[both]).statistic))
    return _mean(found)


def _mean_jaccard(flags: Flags) -> float:
    found = []
    for a, b in combinations(flags, 2):
        either = int((a | b).sum())
        if either:
            found.append(int((a & b).sum()) / either)
    return _mean(found)


def _standardised(z: Floats, values: Floats) -> Floats:
    """Return each seed's values in units of the bulk of its z."""
    fits = [fit_location_and_scale(own[np.isfinite(own)]) for own in z]
    return np.array([(own - location) / scale for own, (location, scale) in zip(values, fits, strict=True)])


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
