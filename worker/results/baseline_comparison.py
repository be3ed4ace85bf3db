"""How the baselines fare on what an audit flagged: whether something simpler would have found it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

ENOUGH = 0.9


@dataclass(frozen=True)
class BaselineComparison:
    """One baseline beside Z. None stands for what cannot be told: nothing flagged, nothing scored, all values equal."""

    name: str
    spearman: float | None
    """Rank correlation with z over the samples that both score."""
    top_overlap: float | None
    """Share of the flagged samples that the baseline has among its own top k, k being how many are flagged."""
    auc: float | None
    """Probability that a flagged sample has a higher value than one that is not, ties counting half."""


def compare(
    z: NDArray[np.float64], flagged: NDArray[np.bool_], baselines: Mapping[str, ArrayLike]
) -> list[BaselineComparison]:
    """Each baseline [rows] beside z [rows] and the flags [rows], in the order given.

    NaN marks rows that z or a baseline did not score: they are in no rank correlation and no AUC, and never in a top k.
    Where the k-th value is tied, the tied rows share the places left evenly.
    """
    return [_compared(name, z, flagged, np.asarray(values, dtype=np.float64)) for name, values in baselines.items()]


def suffices(comparisons: Sequence[BaselineComparison], *, enough: float = ENOUGH) -> tuple[str, ...]:
    """Names of the baselines that find the flagged samples too: top_overlap and auc of at least `enough`.

    The AUC is asked for as well because, where most samples are flagged, any top k holds most of them.
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
