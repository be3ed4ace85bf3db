"""Several probes in one audit: what each finds, and one headline that holds over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.influence.statistics.detection import Detection, adjusted_at

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Combination:
    """The headline over m probes, one entry per sample; NaN where no probe has a p."""

    p: Floats
    q: Floats
    flagged: NDArray[np.bool_]
    probe: NDArray[np.int64]
    """The probe with the smallest p, the first of equal ones; -1 where none has a p."""


def combine_probes(probes: Sequence[Detection], *, q: float, cluster: NDArray[np.int64] | None = None) -> Combination:
    """Return the headline: p = min(1, m min_k p_k), by Bonferroni, then Benjamini-Hochberg over the clusters' least p.

    Args:
        probes: The detection of each of the m probes; they may depend on each other in any way.
        q: Level of the false discovery rate, in (0, 1).
        cluster: [rows], near-duplicates share a number and count once; None if no sample has any.

    Raises:
        ValueError: There is no probe.
    """
    if not probes:
        raise ValueError("no probe to combine")
    each = np.array([probe.p for probe in probes])
    tested = np.isfinite(each).any(0)
    least = np.where(np.isfinite(each), each, np.inf)
    p = np.where(tested, np.minimum(1.0, len(probes) * least.min(0)), np.nan)
    ids, index = np.unique(np.arange(len(p)) if cluster is None else cluster, return_inverse=True)
    of_cluster = np.full(len(ids), np.nan)
    np.fmin.at(of_cluster, index, p)
    q_values = adjusted_at(p, of_cluster)
    return Combination(p, q_values, q_values <= q, np.where(tested, least.argmin(0), -1))
