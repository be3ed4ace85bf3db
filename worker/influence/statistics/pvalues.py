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
"""Fewer trusted samples say less about the centre than the bulk does; they are only left out of the test."""


@dataclass(frozen=True)
class PValues:
    """The reference that one-sided p-values are computed from."""

    null: Null
    reference: Reference
    trusted: Floats
    """The statistics of the trusted samples, in any order."""

    def at(self, z: Floats) -> Floats:
        """Return the one-sided p of each statistic; NaN where z is NaN."""
        if self.reference == "conformal":
            return np.where(np.isfinite(z), conformal_p_values(z, self.trusted), np.nan)
        return np.asarray(self.null.sf(z))


def p_values(z: Floats, *, trusted: Mask, q: float, degrees_of_freedom: float) -> PValues:
    """Return the reference for the p-values of the samples that are not trusted.

    The null distribution is fitted to the trusted samples if there are at least 20, otherwise to the bulk of all
    samples. If there are enough trusted samples for ranks among them to be fine (`conformal_is_sharp`), p is such
    a rank, and the null is for display.

    Args:
        z: [samples], the statistic; finite.
        trusted: [samples], whether the sample is known to be clean.
        q: Level of the audit's false discovery rate, in (0, 1).
        degrees_of_freedom: Upper limit of those of the null's tail.

    Raises:
        IndistinguishableError: No null can be fitted: too few samples, or no spread.
    """
    tested, count = ~trusted, int(trusted.sum())
    reference: Reference = "bulk"
    if count < LEAST_TRUSTED:
        null = fit_null(z, degrees_of_freedom=degrees_of_freedom)
    else:
        null = fit_null_to_trusted(z[trusted], degrees_of_freedom=degrees_of_freedom)
        reference = "conformal" if conformal_is_sharp(count, int(tested.sum()), q) else "trusted"
    return PValues(null, reference, z[trusted])
