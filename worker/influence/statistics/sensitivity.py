"""What an audit would have found: probe answers hidden among the samples at falling strength, and the share flagged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import beta, t

from worker.influence.statistics.detection import adjusted_at
from worker.influence.statistics.mixture import Mixture, false_share

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

STRENGTHS = (0.25, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Strengths of the tracers: from a quarter of a probe answer to all of it."""

HIDDEN = 5
"""Number of tracers hidden at a time, but no more than a tenth of the samples, so that most of the data stay as they
are."""

REPETITIONS = 20
"""The least number of times that each tracer is hidden."""

ALMOST_SURE = 0.99
"""A sample whose probability of being false is above this is flagged in no audit."""

CURVE_POINTS = 60
"""Most points of a flag curve."""


@dataclass(frozen=True)
class SensitivityPoint:
    """The share of tracers of one strength that is flagged, with a 95 % Clopper-Pearson interval over folds."""

    strength: float
    inserted: int
    flagged: float
    low: float
    high: float


@dataclass(frozen=True)
class Sensitivity:
    """The share of tracers that is flagged, for each strength."""

    tracers: int
    clusters: int
    """Number of independent units: tracers that are held out together count as one."""
    points: tuple[SensitivityPoint, ...]
    """Empty where no item can be held out."""


def sensitivity(
    x: Floats,
    items: Floats,
    folds: Integers,
    mixture: Mixture,
    *,
    q: float,
    rng: Generator,
    strengths: Sequence[float] = STRENGTHS,
) -> Sensitivity:
    """Hide tracers among the samples and measure which of them would be flagged.

    A tracer of strength d is d times a probe answer, held out, plus 1 - d times a sample of the bulk: poison that says
    what the probe says, in words that resemble the probe's less the smaller d is. A few are hidden at a time; then
    Benjamini and Hochberg's procedure and the expected share of false samples are computed again with them.

    Args:
        x: [samples, columns], as passed to `fit_mixture`.
        items: [items, columns], the held-out unwanted answers.
        folds: [items], answers with the same number are held out together.
        mixture: Fitted to x.
        q: Level of the audit's false discovery rate, in (0, 1).
        rng: Draws tracers and samples.
        strengths: The values of d, in [0, 1].

    Returns:
        The shares, by strength; none without a tracer, or without a sample of the bulk that one could be hidden beside.
    """
    tracers = len(items)
    kinds = mixture.kinds(x)
    ordinary = np.flatnonzero(kinds.bulk >= np.maximum(kinds.unwanted, kinds.fair))
    if not tracers or not len(ordinary):
        return Sensitivity(0, 0, ())
    _, size = np.unique(folds, return_counts=True)
    hidden = min(HIDDEN, max(1, len(x) // 10))
    rounds = -(-REPETITIONS * tracers // hidden)
    more = mixture.with_more(hidden)
    p, local_fdr = t.sf(x[:, 0], mixture.bulk_freedom), 1 - more.kinds(x).unwanted
    # Samples that cannot be flagged beside a tracer do not matter, and a large dataset has a million of them.
    p, local_fdr = p[p <= q], local_fdr[local_fdr < ALMOST_SURE]
    # Unequal folds count for fewer independent ones.
    independent = float(size.sum() ** 2 / (size**2).sum())
    points = []
    for strength in strengths:
        found, asked = np.zeros(tracers), np.zeros(tracers)
        for number in range(rounds):
            chosen = (number * hidden + np.arange(hidden)) % tracers
            place = strength * items[chosen] + (1 - strength) * x[rng.choice(ordinary, hidden)]
            both = np.r_[p, t.sf(place[:, 0], mixture.bulk_freedom)]
            unlike_the_bulk = adjusted_at(both, both)[len(p) :] * (len(x) + hidden) / len(both) <= q
            share = false_share(np.r_[local_fdr, 1 - more.kinds(place).unwanted])[len(local_fdr) :]
            np.add.at(found, chosen, unlike_the_bulk & (share <= q))
            np.add.at(asked, chosen, 1)
        flagged = float((found / asked).mean())
        points.append(SensitivityPoint(strength, hidden, flagged, *clopper_pearson(flagged, independent)))
    return Sensitivity(tracers, len(size), tuple(points))


def clopper_pearson(share: float, trials: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a probability of which `share` was seen in `trials` independent units.

    A unit's own share varies less than a coin with its probability, so the interval errs toward width.

    Args:
        share: The observed share, in [0, 1].
        trials: Number of independent units; need not be whole.
        confidence: Level of the interval, in (0, 1).
    """
    tail, hits = (1 - confidence) / 2, share * trials
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def flag_curve(mu: Floats, flagged: Mask) -> tuple[Floats, Floats]:
    """Return P(flagged | mu) over the rows by isotonic regression: values of mu in order, and the probability at each.

    At most 60 points, the corners of the steps. If nothing is flagged it is zero throughout: how strong a sample would
    have to be is then not known.

    Args:
        mu: [rows].
        flagged: [rows], whether the sample was flagged.
    """
    order = np.argsort(mu, kind="stable")
    fitted = isotonic_regression(flagged[order].astype(np.float64))
    corner = np.zeros(len(order), dtype=bool)
    corner[fitted.blocks[:-1]] = True
    corner[fitted.blocks[1:] - 1] = True
    at = np.flatnonzero(corner)
    if len(at) > CURVE_POINTS:
        at = at[np.unique(np.linspace(0, len(at) - 1, CURVE_POINTS).round().astype(np.int64))]
    return mu[order][at], np.asarray(fitted.x)[at]
