"""Several probes in one audit: what each finds, and one headline that stays true over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.influence.statistics.detection import Detection, adjusted

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Combination:
    """The headline over m probes, one entry a sample; NaN where no probe has a p."""

    p: Floats
    q: Floats
    flagged: NDArray[np.bool_]
    probe: NDArray[np.int64]
    """The probe with the smallest p, the first of equal ones; -1 where none has a p."""


def combine_probes(probes: Sequence[Detection], *, q: float) -> Combination:
    """p = min(1, m min_k p_k) (Bonferroni, valid under any dependence between probes), then Benjamini-Hochberg."""
    if not probes:
        raise ValueError("no probe to combine")
    each = np.array([probe.p for probe in probes])
    tested = np.isfinite(each).any(0)
    least = np.where(np.isfinite(each), each, np.inf)
    p = np.where(tested, np.minimum(1.0, len(probes) * least.min(0)), np.nan)
    q_values = adjusted(p)
    return Combination(p, q_values, q_values <= q, np.where(tested, least.argmin(0), -1))
