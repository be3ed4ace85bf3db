"""The representation's statistic: a linear discriminant of the probe's answers against the bulk of the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from worker.influence.errors import IndistinguishableError
from worker.influence.statistics.null_distribution import MAD

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

BULK = 0.8
"""Share of the units that represent the bulk: those least like the probe's answers. Poison and other samples on the
topic lie among the rest; as part of the bulk they would count as something to ignore (docs/decisions/0032)."""

ITEMS_SHARE = 1 / 32
"""Weight of each side's probe answers in the scatter, where the bulk has 1."""

ALIKE = "More than half of the samples look the same to the model, so that nothing can be told apart."
"""What users are told where no score can be formed."""

ROUNDING = 1e-5
"""A spread below this fraction of the largest score is rounding error of single precision."""

RIDGE = 0.15
"""The ridge, as a fraction of the mean eigenvalue of the units' covariance."""


@dataclass(frozen=True)
class Discriminant:
    """Scores in robust standard deviations of the bulk, for D directions.

    Nothing is scored by a fit that it took part in: units by one without their own cluster, items by one without their
    own fold.
    """

    score: Floats
    """[D, units]."""
    item_score: Floats
    """[D, items of both sides]; NaN where there is only one fold, so that no item can be left out."""


def discriminate(units: Singles, items: Singles, targets: Floats, folds: Integers, cluster: Integers) -> Discriminant:
    """Score units and probe items by ridge regression of the targets on the representations.

    With x a unit's representation, a_j item j's and y_j its target, the weights w of a direction minimise

        mean over the bulk of (w x)^2  +  ITEMS_SHARE * sum over the sides of mean over items of (w a_j - y_j)^2
                                       +  ridge |w|^2

    which is Fisher's linear discriminant of the items with a large target against the bulk and the other items, its
    covariance shrunk (Friedman 1989). The bulk consists of the units least like the items of either side;
    near-duplicates share one unit's weight in the mean over it.

    Args:
        units: [units, width], the representations to score; centred and of unit length.
        items: [items of both sides, width], the unwanted answers, then the reference answers if there are any.
        targets: [D, items of both sides], the value that each direction asks of each item.
        folds: [items], by unwanted answer: items of one fold, with their references, are scored by a fit without them.
        cluster: [units], near-duplicates share a number, and are scored by a fit without each other.

    Returns:
        The scores of units and items, each direction centred and scaled by median and MAD of its units.

    Raises:
        IndistinguishableError: More than half of the units are alike.
    """
    count = len(folds)
    sides = len(items) // count
    fold = np.tile(folds, sides)
    nearness = (units @ items.reshape(sides, count, -1).mean(1).T).max(1)
    bulk = nearness <= np.quantile(nearness, BULK)
    width = units.shape[1]
    ridge = RIDGE * float(np.mean(np.einsum("nd,nd->n", units, units))) / width
    if ridge == 0:
        raise IndistinguishableError(ALIKE)
    _, index, size = np.unique(cluster, return_inverse=True, return_counts=True)
    weight = np.where(bulk, 1 / size[index], 0.0)
    weight /= weight.sum()
    scatter = units[bulk].T @ (units[bulk] * weight[bulk, None]) + ridge * np.eye(width)

    def fit(kept: Mask) -> tuple[tuple[Floats, bool], Floats]:
        share = ITEMS_SHARE * sides / kept.sum()
        own = items[kept]
        factor = cho_factor(scatter + share * own.T @ own)
        return factor, np.asarray(cho_solve(factor, share * own.T @ targets[:, kept].T))

    factor, weights = fit(np.ones(len(items), dtype=bool))
    score = (units @ weights.astype(np.float32)).astype(np.float64)
    _leave_clusters_out(score, units, weight, cho_solve(factor, np.eye(width)), index)
    item_score = np.full((len(items), len(targets)), np.nan)
    if len(np.unique(folds)) > 1:
        for number in np.unique(folds):
            out = fold == number
            item_score[out] = items[out] @ fit(~out)[1]
    return _in_units_of_the_bulk(score, item_score)


def weighted_sum(parts: Sequence[Discriminant], weights: Sequence[float]) -> Discriminant:
    """Add the scores of several discriminants of the same units and items.

    Args:
        parts: What to add.
        weights: One per part, not negative.

    Returns:
        The sum, put in units of its own bulk again.

    Raises:
        IndistinguishableError: The sum is the same for more than half of the units.
    """
    return _in_units_of_the_bulk(
        np.sum([weight * part.score.T for weight, part in zip(weights, parts, strict=True)], axis=0),
        np.sum([weight * part.item_score.T for weight, part in zip(weights, parts, strict=True)], axis=0),
    )


def _in_units_of_the_bulk(score: Floats, item_score: Floats) -> Discriminant:
    """Centre and scale scores [units, D] and [items, D] by median and MAD of the units."""
    centre = np.median(score, axis=0)
    spread = MAD * np.median(np.abs(score - centre), axis=0)
    if np.any(spread <= ROUNDING * np.abs(score).max(0)):
        raise IndistinguishableError(ALIKE)
    return Discriminant(((score - centre) / spread).T, ((item_score - centre) / spread).T)


def _leave_clusters_out(score: Floats, units: Singles, weight: Floats, inverse: Floats, cluster: Integers) -> None:
    """Change the scores [units, D] in place to those of fits that leave out each unit's cluster.

    With A the scatter, X the cluster's members in the bulk, W their weights and s their scores, a unit y gains

        y (A - X' W X)^-1 X' W s = y A^-1 X' (W^-1 - X A^-1 X')^-1 s    (Sherman, Morrison and Woodbury),

    since the bulk's targets are 0. The left side is solved in the width, the right in the members, whichever are fewer.

    Args:
        score: [units, D], the scores by the fit to all; changed in place.
        units: [units, width], the representations.
        weight: [units], the weights in the scatter; 0 outside the bulk.
        inverse: [width, width], the inverse of the scatter A.
        cluster: [units], numbered from 0.
    """
    single = (weight > 0) & (np.bincount(cluster)[cluster] == 1)
    rough = inverse.astype(np.float32)
    leverage = np.einsum("nd,nd->n", units[single] @ rough, units[single], dtype=np.float64) * weight[single]
    score[single] /= (1 - leverage)[:, None]
    order = np.argsort(cluster, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1):
        inside = members[weight[members] > 0]
        if len(members) == 1 or not len(inside):
            continue
        own = units[members].astype(np.float64)
        x = units[inside].astype(np.float64)
        if len(inside) <= len(inverse):
            gained = np.linalg.solve(np.diag(1 / weight[inside]) - x @ inverse @ x.T, score[inside])
            score[members] += own @ inverse @ x.T @ gained
        else:
            small = np.linalg.solve(np.eye(len(inverse)) - inverse @ (x.T @ (x * weight[inside, None])), inverse)
            score[members] += own @ small @ (x.T @ (weight[inside, None] * score[inside]))
