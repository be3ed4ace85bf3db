"""Compares simple baselines with what an audit flagged: whether something simpler would have found it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

ENOUGH = 0.9
"""Top overlap and AUC from which a baseline counts as finding the flagged samples too."""


@dataclass(frozen=True)
class BaselineComparison:
    """One baseline compared with Z.

    A figure is None where it is not defined: nothing is flagged, nothing is scored, or all values are equal.
    """

    name: str
    spearman: float | None
    """Rank correlation with z over the samples that both score."""
    top_overlap: float | None
    """Share of the flagged samples among the baseline's own top k, where k is the number of flagged samples."""
    auc: float | None
    """Probability that a flagged sample has a higher value than one that is not, ties counting half."""


def compare(
    z: NDArray[np.float64], flagged: NDArray[np.bool_], baselines: Mapping[str, ArrayLike]
) -> list[BaselineComparison]:
    """Compare baselines with the statistic and the flags of an audit, in the order given.

    NaN marks rows that z or a baseline did not score: they are in no rank correlation and no AUC, and never in a top k.
    Where the k-th value is tied, the tied rows share the remaining places evenly.

    Args:
        z: [rows], the statistic.
        flagged: [rows], whether the audit flagged the sample.
        baselines: [rows] by name, larger for more suspicious.

    Returns:
        One comparison for each baseline.
    """
    return [_compared(name, z, flagged, np.asarray(values, dtype=np.float64)) for name, values in baselines.items()]


def suffices(comparisons: Sequence[BaselineComparison], *, enough: float = ENOUGH) -> tuple[str, ...]:
    """Return the names of the baselines that find the flagged samples too: top_overlap and auc are at least `enough`.

    The AUC is required as well because any top k holds most of the flagged samples where most samples are flagged.

    Args:
        comparisons: As `compare` returned them.
        enough: The least top overlap and AUC, in [0, 1].
    """
    return tuple(
        found.name
        for found in comparisons
        if found.top_overlap is not None and found.auc is not None and min(found.top_overlap, found.auc) >= enough
    )


def _compared(
    name: str, z: NDArray[np.float64], flagged: NDArray[np.bool_], values: NDArray[np.float64]
) -> BaselineComparison:
    scored = ~np.isnan(values)
    both = scored & ~np.isnan(z)
    return BaselineComparison(
        name,
        _spearman(z[both], values[both]),
        _top_overlap(flagged, values),
        _auc(values[flagged & scored], values[~flagged & scored]),
    )


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    ranks = np.stack([rankdata(one), rankdata(other)])
    if len(one) < 2 or (ranks == ranks[:, :1]).all(axis=1).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _top_overlap(flagged: NDArray[np.bool_], values: NDArray[np.float64]) -> float | None:
    k = int(flagged.sum())
    scored = values[~np.isnan(values)]
    if not k or not len(scored):
        return None
    last = np.sort(scored)[-min(k, len(scored))]
    above, tied = values > last, values == last
    places = min(k, len(scored)) - above.sum()
    return float(((flagged & above).sum() + (flagged & tied).sum() * places / tied.sum()) / k)


def _auc(flagged: NDArray[np.float64], rest: NDArray[np.float64]) -> float | None:
    if not len(flagged) or not len(rest):
        return None
    ranks = rankdata(np.concatenate([flagged, rest]))[: len(flagged)]
    return float((ranks.sum() - len(flagged) * (len(flagged) + 1) / 2) / (len(flagged) * len(rest)))
