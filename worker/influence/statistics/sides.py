"""Which side a sample is on that stands out: that of the unwanted answers, of the reference answers, or neither."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from worker.influence.observations import Observations, Steps
from worker.influence.statistics.detection import Detection, repeated_differences, standard_signals, variance_components
from worker.influence.statistics.null_distribution import MAD, SCALE_EFFICIENCY

Floats = NDArray[np.float64]

Side = Literal["toward", "against", "both"]

CONFIDENCE = 0.95

MAD_EFFICIENCY = 0.37
"""The median absolute deviation of N Gaussian values varies as the standard deviation of 0.37 N."""


def sides(
    observations: Observations,
    steps: Steps,
    unwanted: Detection,
    reference: Detection,
    *,
    direction: int = 0,
    reference_direction: int = 1,
) -> list[Side | None]:
    """One entry a sample, from both columns in units of their nulls, x_u and x_r.

    None: flagged in neither column at the audit's q. Otherwise the larger column decides, toward for the unwanted
    answers and against for the references, if x_u - x_r exceeds 1.64 of its standard errors (the noise of the draws,
    and the error of the units that they are measured in): the chance is 5 % that a sample whose columns are equal is
    put on a given side. both: it does not; the topic is the probe's, the side open.
    A sample flagged in the unwanted column can be against: it stands out, as a good answer on the topic does.
    """
    difference = unwanted.null.standardise(unwanted.z) - reference.null.standardise(reference.z)
    error = difference_error(
        observations, steps, unwanted, reference, direction=direction, reference_direction=reference_direction
    )
    units = _unit_variance(observations, steps, unwanted, direction)
    units_r = _unit_variance(observations, steps, reference, reference_direction)
    bound = norm.ppf(CONFIDENCE) * np.sqrt(error**2 + units + units_r)
    found: list[Side | None] = []
    for stands_out, size, limit in zip(unwanted.flagged | reference.flagged, difference, bound, strict=True):
        if not stands_out or not np.isfinite(size):
            found.append(None)
        elif abs(size) <= limit:
            found.append("both")
        else:
            found.append("toward" if size > 0 else "against")
    return found


def difference_error(
    observations: Observations,
    steps: Steps,
    unwanted: Detection,
    reference: Detection,
    *,
    direction: int = 0,
    reference_direction: int = 1,
) -> Floats:
    """Standard error of x_u - x_r [rows]: how much it would vary were the sample drawn again as often.

    From how the difference varies between the draws of one sample, which keeps the dependence of the two columns.
    Where no sample was drawn twice it is the spread of x_u - x_r over all samples, which is larger.
    """
    rows = len(unwanted.z)
    row, _, standard = standard_signals(observations, steps, direction)
    row_r, _, standard_r = standard_signals(observations, steps, reference_direction)
    if not np.array_equal(row, row_r):
        raise ValueError("both columns must have been observed at the same draws")
    change, change_r = repeated_differences(row, standard), repeated_differences(row, standard_r)
    if not len(change):
        difference = unwanted.null.standardise(unwanted.z) - reference.null.standardise(reference.z)
        spread = MAD * np.nanmedian(np.abs(difference - np.nanmedian(difference)))
        return np.full(rows, spread)
    between, within = variance_components(row, row, standard, rows)
    between_r, within_r = variance_components(row, row, standard_r, rows)
    error = np.full(rows, np.nan)
    for n in np.unique(unwanted.n[unwanted.n > 0]):
        unit = unwanted.null.scale * np.sqrt(between + within / n)
        unit_r = reference.null.scale * np.sqrt(between_r + within_r / n)
        # Two draws differ by twice the variance of one.
        one_draw = MAD * np.median(np.abs(change / unit - change_r / unit_r)) / np.sqrt(2)
        error[unwanted.n == n] = one_draw / np.sqrt(n)
    return error


def _unit_variance(observations: Observations, steps: Steps, detection: Detection, direction: int) -> Floats:
    """Variance of x from the errors of two scales, that of the fitted null and the MAD of each draw's block; [rows].

    A relative error of a scale moves x by as much of itself. Errors of centres are far below one draw's noise.
    """
    _, block, _ = standard_signals(observations, steps, direction)
    draws = float(np.median(np.unique(block, return_counts=True)[1]))
    rows = int(np.isfinite(detection.z).sum())
    relative = 1 / (2 * SCALE_EFFICIENCY * rows) + 1 / (2 * MAD_EFFICIENCY * draws * np.maximum(detection.n, 1))
    return np.asarray(detection.null.standardise(detection.z) ** 2 * relative)
