"""Conformal p-values: ranks among samples known to be clean, without any assumed distribution."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FINDINGS = 0.01
"""The share of the samples that an audit must be able to flag when they are all there is to find. It is fixed before
any data are seen: if it depended on the findings, the audit would choose the kind of p-value by its own result."""


def conformal_p_values(z: Floats, trusted: Floats) -> Floats:
    """Return p = (1 + number of trusted z at least as large) / (trusted + 1), [rows] (Bates et al. 2023, marginal).

    It is super-uniform for every sample that is exchangeable with the trusted ones, whatever the distribution. All
    p-values share the trusted samples and so depend positively on each other (PRDS), under which Benjamini-Hochberg
    holds its level.

    Args:
        z: [rows], the statistic of the samples to test, larger for more influence; must not be NaN, which would rank as
            larger than all.
        trusted: [trusted], the statistic of the trusted samples, in any order.
    """
    below = np.searchsorted(np.sort(trusted), z, side="left")
    return np.asarray((1 + len(trusted) - below) / (len(trusted) + 1))


def conformal_is_sharp(trusted: int, tested: int, q: float) -> bool:
    """Whether there are enough trusted samples for conformal p-values to find a 1 % share of poison.

    The test is trusted + 1 >= tested / (q k): the least possible p then lets Benjamini-Hochberg find k = 1 % of the
    tested samples, at least 1.

    Args:
        trusted: Number of trusted samples.
        tested: Number of samples to test.
        q: Level of the false discovery rate, in (0, 1).

    Returns:
        Whether the inequality holds.
    """
    return trusted + 1 >= tested / (q * max(1, math.ceil(FINDINGS * tested)))
