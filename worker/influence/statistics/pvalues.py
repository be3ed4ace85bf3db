"""The p-values of an audit, with trusted samples or without."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worker.influence.statistics.conformal import conformal_is_sharp, conformal_p_values
from worker.influence.statistics.null_distribution import Null, fit_null, fit_null_to_trusted

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

Reference = Literal["bulk", "trusted", "conformal"]
"""bulk: a null fitted to the middle of the data; trusted: its centre and scale are those of the trusted samples;
conformal: the rank among the trusted samples, without any distribution."""

LEAST_TRUSTED = 20
"""Fewer trusted samples say less about the centre than the bulk does, and are only left out of the test."""


@dataclass(frozen=True)
class PValues:
    """One-sided p-values, and what they were taken against."""

    p: Floats
    """One a sample; NaN for the trusted ones."""
    null: Null
    reference: Reference


def p_values(z: Floats, *, trusted: Mask, q: float, degrees_of_freedom: float) -> PValues:
    """Return the one-sided p of every sample that is not trusted.

    The null distribution is fitted to the trusted samples if there are at least 20, otherwise to the bulk of all
    samples. Where the trusted samples are so many that ranks among them are sharp enough (`conformal_is_sharp`), p is
    such a rank, and the null is for display.

    Args:
        z: [samples], the statistic; finite.
        trusted: [samples], whether the sample is known to be clean.
        q: Level of the audit's false discovery rate.
        degrees_of_freedom: Of the null's tail, at most.

    Raises:
        ValueError: No null can be fitted: too few samples, or no spread.
    """
    tested, count = ~trusted, int(trusted.sum())
    reference: Reference = "bulk"
    if count < LEAST_TRUSTED:
        null = fit_null(z, degrees_of_freedom=degrees_of_freedom)
    else:
        null = fit_null_to_trusted(z[trusted], degrees_of_freedom=degrees_of_freedom)
        reference = "conformal" if conformal_is_sharp(count, int(tested.sum()), q) else "trusted"
    p = np.full(len(z), np.nan)
    p[tested] = conformal_p_values(z[tested], z[trusted]) if reference == "conformal" else null.sf(z[tested])
    return PValues(p, null, reference)
