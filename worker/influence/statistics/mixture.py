"""The mixture model of an audit: a sample is of the bulk, a fair answer on the probe's topic, or an unwanted answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import multivariate_t, spearmanr

Floats = NDArray[np.float64]

TYPICAL_MEAN = ((6.0, 2.0), (2.0, 5.0))
"""Mean of held-out unwanted and of held-out reference answers in the two statistics, over the choosing half of the
suite."""

TYPICAL_VARIANCE = (2.0, 4.0)
"""Variance of answers around the mean of their side in the two statistics, over the same half."""

MEAN_ITEMS = 1.0
"""Number of items of a side that the typical mean counts as, in addition to those of the probe."""

VARIANCE_ITEMS = 4.0
"""Number of items that the typical variance counts as, in addition to those of the probe."""

DATA_ITEMS = 6.0
"""Number of samples of a kind at which the data determine its place as much as the probe's answers do, and the strength
that both kinds have in common."""

MOST_SAMPLES = 24.0
"""The most samples of one kind that count. Otherwise thousands of unwanted ones would draw the fair kind to themselves
where there is no fair answer, and would be divided between the two."""

FARTHEST = 2.0
"""Standard deviations beyond the mean of a side's answers. A sample farther out counts as if it lay there, so that none
is doubted for being more extreme than the answers that the probe asks for."""

MIDDLE = 1.5
"""Samples within this many null standard deviations are taken as clean."""

MOST_ALIKE = 0.99
"""The largest correlation of the columns: where both sides rank the samples alike, the bulk would be a line."""

ROUNDS = 500
"""Most iterations of the fit."""

PRECISION = 1e-7
"""Change of the shares at which the fit stops."""


@dataclass(frozen=True)
class Kinds:
    """Probabilities that a sample is an unwanted answer and that it is a fair one, [samples]."""

    unwanted: Floats
    fair: Floats
    """Zero where the probe has no reference answers."""

    @property
    def bulk(self) -> Floats:
        """Probability that a sample belongs to the bulk: the remainder."""
        return 1 - self.unwanted - self.fair


@dataclass(frozen=True)
class Mixture:
    """Student t distributions of the bulk, of unwanted answers and, with references, of fair ones, in that order."""

    samples: int
    """How many samples it was fitted to."""
    share: Floats
    """Share of the samples that are of each kind, [kinds]."""
    place: tuple[Floats, ...]
    """Location [columns] of the unwanted and of the fair answers; the bulk lies at the origin."""
    shape: Floats
    """Shape matrix of the unwanted and of the fair answers alike, [columns, columns]."""
    freedom: float
    """Degrees of freedom of the unwanted and of the fair answers."""
    correlation: Floats
    """Shape matrix of the bulk, [columns, columns]."""
    bulk_freedom: float
    """Degrees of freedom of the bulk: those of the null's tail."""
    farthest: tuple[float, ...]
    """The largest value that counts in the column toward the unwanted answers, and in that toward the references."""

    def kinds(self, x: Floats) -> Kinds:
        """Return the probabilities of the kinds at x [samples, columns]."""
        member = self._members(self._drawn_in(x))
        return Kinds(member[1], member[2] if len(member) > 2 else np.zeros(len(x)))

    def with_more(self, unwanted: int) -> "Mixture":
        """Return the mixture as it would be with `unwanted` additional unwanted samples."""
        count = self.samples * self.share
        count[1] += unwanted
        return replace(self, samples=self.samples + unwanted, share=count / (self.samples + unwanted))

    def _members(self, x: Floats) -> Floats:
        """Return the probabilities of all kinds at x, which is drawn in already; [kinds, samples]."""
        density = [multivariate_t.pdf(x, np.zeros(x.shape[1]), self.correlation, self.bulk_freedom)]
        density += [multivariate_t.pdf(x, own, self.shape, self.freedom) for own in self.place]
        weighted = self.share[:, None] * np.array([np.atleast_1d(own) for own in density])
        return np.asarray(weighted / weighted.sum(0))

    def _drawn_in(self, x: Floats) -> Floats:
        """Move samples beyond the farthest value of a column toward the origin until they lie within it."""
        beyond = np.max([x[:, side] / limit for side, limit in enumerate(self.farthest)], axis=0)
        return np.asarray(x / np.maximum(beyond, 1.0)[:, None])


def fit_mixture(x: Floats, unwanted: Floats, reference: Floats | None, *, degrees_of_freedom: float) -> Mixture:
    """Fit shares and places of the kinds by expectation maximisation (Dempster, Laird and Rubin 1977).

    The bulk is the null: a Student t around 0 with unit scale. Fair and unwanted answers are each a Student t that
    starts where the held-out answers of its side lie and moves to the samples that seem to be of its kind: the
    posterior mode under a prior in which the answers count as DATA_ITEMS samples. Both have one covariance, as in a
    linear discriminant. So poison with other wording than the probe's is still covered, and a kind that the data do not
    hold stays where its answers are, with a share near zero.

    Where there are references, both kinds also have a strength in common, which multiplies the places of the answers
    and is 1 for answers as clear as the probe's. Where samples are weaker on both sides, as in conversations that say
    other things as well, the kinds stay apart; without it the fair kind alone would move to what lies between the
    answers and the bulk, and take the unwanted samples along (docs/decisions/0052).

    Args:
        x: [samples, columns], the statistic toward the unwanted answers and, where the probe has references, that
            toward the references, each in units of its null.
        unwanted: [items, columns], the same statistics of the held-out unwanted answers; no item if none can be held
            out.
        reference: [items, columns], those of the reference answers; None without them.
        degrees_of_freedom: Those of the null's tail.

    Returns:
        The fitted mixture; its kinds are the bulk, unwanted answers and, with references, fair ones.
    """
    columns = x.shape[1]
    sides = [unwanted] if reference is None else [unwanted, reference]
    means = [
        (MEAN_ITEMS * np.array(typical[:columns]) + side.sum(0)) / (MEAN_ITEMS + len(side))
        for typical, side in zip(TYPICAL_MEAN, sides, strict=False)
    ]
    freedom = float(VARIANCE_ITEMS + sum(max(len(side) - 1, 0) for side in sides))
    scatter = VARIANCE_ITEMS * np.diag(TYPICAL_VARIANCE[:columns])
    for side in sides:
        away = side - side.mean(0) if len(side) else side
        scatter = scatter + away.T @ away
    within = scatter / freedom
    found = Mixture(
        samples=len(x),
        share=np.array([0.9] + [0.1 / len(sides)] * len(sides)),
        place=tuple(means),
        shape=within * (1 + 1 / (MEAN_ITEMS + len(unwanted))) * (freedom - 2) / freedom,
        freedom=freedom,
        correlation=_correlation(x),
        bulk_freedom=degrees_of_freedom,
        farthest=tuple(float(mean[i] + FARTHEST * within[i, i] ** 0.5) for i, mean in enumerate(means)),
    )
    x = found._drawn_in(x)
    for _ in range(ROUNDS):
        member = found._members(x)
        share = (member.sum(1) + 1) / (len(x) + len(member))
        settled = np.abs(share - found.share).max() < PRECISION
        counted = [own * min(1.0, MOST_SAMPLES / own.sum()) for own in member[1:]]
        strength = 1.0 if reference is None else _strength(means, counted, x, within)
        total, weight, place = 2 * DATA_ITEMS * within, 2 * DATA_ITEMS, []
        for mean, own in zip(means, counted, strict=True):
            place.append((DATA_ITEMS * strength * mean + own @ x) / (DATA_ITEMS + own.sum()))
            away = x - place[-1]
            total, weight = total + (own[:, None] * away).T @ away, weight + float(own.sum())
        found = replace(found, share=share, place=tuple(place), shape=total / weight * (freedom - 2) / freedom)
        if settled:
            break
    return found


def _strength(means: Sequence[Floats], counted: Sequence[Floats], x: Floats, within: Floats) -> float:
    """Return the factor of all means that fits the samples of their kinds best.

    It is the weighted least squares estimate in the metric of `within`, to which 1 contributes as DATA_ITEMS samples of
    each kind do.

    Args:
        means: [columns] of each kind.
        counted: [samples] of each kind, how far each sample counts as of it.
        x: [samples, columns].
        within: [columns, columns], the covariance of answers around the mean of their side.
    """
    along = [np.linalg.solve(within, mean) for mean in means]
    square = [float(mean @ own) for mean, own in zip(means, along, strict=True)]
    found = sum(DATA_ITEMS * size + own @ (x @ of) for size, own, of in zip(square, counted, along, strict=True))
    return float(found / sum((DATA_ITEMS + own.sum()) * size for size, own in zip(square, counted, strict=True)))


def false_share(local_fdr: Floats) -> Floats:
    """Return the expected share of false ones among each sample and all that are less likely to be false, [samples].

    It is the q-value that belongs to the local false discovery rate: flagging all samples up to a level of it makes the
    expected share of false flags at most that level (Sun and Cai 2007). NaN stays NaN and counts for nothing.
    """
    order = np.argsort(local_fdr, kind="stable")
    order = order[np.isfinite(local_fdr[order])]
    found = np.full(len(local_fdr), np.nan)
    found[order] = np.cumsum(local_fdr[order]) / np.arange(1, len(order) + 1)
    return found


def _correlation(x: Floats) -> Floats:
    """Return the correlation matrix of the columns of x over the middle of the data, by ranks."""
    found = np.eye(x.shape[1])
    middle = x[(np.abs(x) < MIDDLE).all(1)]
    if x.shape[1] == 2 and len(middle) > 2 and np.ptp(middle, axis=0).all():
        ranks = spearmanr(middle[:, 0], middle[:, 1]).statistic
        found[0, 1] = found[1, 0] = np.clip(2 * np.sin(np.pi / 6 * ranks), -MOST_ALIKE, MOST_ALIKE)
    return found
