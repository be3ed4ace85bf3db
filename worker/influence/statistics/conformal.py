"""p against samples that are known to be clean, as far as there are enough of them."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worker.influence.statistics.null_distribution import (
    TAIL_DEGREES_OF_FREEDOM,
    Null,
    attainable_degrees_of_freedom,
    fit_null,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

Reference = Literal["bulk", "trusted", "conformal"]
"""bulk: a null fitted to the middle of the data; trusted: its centre and scale are those of the trusted samples;
conformal: the rank among the trusted samples, without any distribution."""

FINDINGS = 0.01
"""Share of the samples that an audit must be able to flag when they are all it can find. Fixed before any data are
seen: taken from the findings it would choose the p-value by its own result."""

LEAST_TRUSTED = 20
"""Fewer trusted samples say less about the centre than the bulk does, and are only left out of the test."""


def trusted_p_values(
    z: Floats, trusted: Mask, *, q: float, degrees_of_freedom: float = TAIL_DEGREES_OF_FREEDOM
) -> tuple[Floats, Null, Reference]:
    """One-sided p of z [rows], NaN for trusted rows; the null beside it, and against what p was taken.

    - conformal, if `conformal_is_sharp`: p from `conformal_p_values`. The null is for display.
    - trusted, from 20 trusted samples on: centre and scale are their mean and standard deviation. The scale holds
      the centre's own error (times sqrt(1 + 1/n)), the tail the scale's (`attainable_degrees_of_freedom`).
    - bulk otherwise: `fit_null` over all samples.
    """
    tested = ~trusted
    count = int(trusted.sum())
    p = np.full(len(z), np.nan)
    if count < LEAST_TRUSTED:
        null = fit_null(z, degrees_of_freedom=degrees_of_freedom)
        p[tested] = null.sf(z[tested])
        return p, null, "bulk"
    null = _fit_to_trusted(z[trusted], degrees_of_freedom)
    if conformal_is_sharp(count, int(tested.sum()), q):
        p[tested] = conformal_p_values(z[tested], z[trusted])
        return p, null, "conformal"
    p[tested] = null.sf(z[tested])
    return p, null, "trusted"


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


def _fit_to_trusted(z: Floats, degrees_of_freedom: float) -> Null:
    spread = float(z.std(ddof=1))
    if spread == 0.0:
        raise ValueError("all trusted samples have the same statistic; no null can be fitted to them")
    tail = min(degrees_of_freedom, attainable_degrees_of_freedom(len(z) - 1))
    return Null(float(z.mean()), spread * math.sqrt(1 + 1 / len(z)), tail)
