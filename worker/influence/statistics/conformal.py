"""p as a rank among samples that are known to be clean, without any distribution."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FINDINGS = 0.01
"""Share of the samples that an audit must be able to flag when they are all it can find. Fixed before any data are
seen: taken from the findings it would choose the p-value by its own result."""


def conformal_p_values(z: Floats, trusted: Floats) -> Floats:
    """(1 + number of trusted z that are at least as large) / (n_trusted + 1); Bates et al. 2023, marginal.

    Super-uniform for every sample that is exchangeable with the trusted ones, whatever the distribution. All share
    the trusted samples and so depend positively on each other (PRDS), under which Benjamini-Hochberg holds its level.
    """
    below = np.searchsorted(np.sort(trusted), z, side="left")
    return np.asarray((1 + len(trusted) - below) / (len(trusted) + 1))


def conformal_is_sharp(trusted: int, tested: int, q: float) -> bool:
    """n_trusted + 1 >= N / (q k): the least possible p lets k = 1 % of the N tested samples, at least 1, be found."""
    return trusted + 1 >= tested / (q * max(1, math.ceil(FINDINGS * tested)))
