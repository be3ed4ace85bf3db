"""The f-INE paper's composition of the steps' influences, which answers a different question than mu."""

import numpy as np
from numpy.typing import NDArray

from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps
from worker.influence.statistics.contribution import contributions
from worker.influence.statistics.row_variance import fit_row_variance

Floats = NDArray[np.float64]


def composed_squares(
    observations: Observations, steps: Steps, *, rows: int, momentum: Momentum, direction: int = 0
) -> Floats:
    """Return an unbiased estimate of sum_t mu_ti^2, [rows]; 0 for a row never drawn.

    mu_ti = (s_ti - sbar_t) / (sigma_t sqrt(B_t)) is the shift that sample i causes in a step that drew it, in units of
    that step's own noise (arXiv 2510.10510). Noise would add its variance to each square, so it is subtracted, and
    where there is only noise an estimate may be below zero. The noise is that of the row's own observations if there
    are two, otherwise that of the function fitted to all rows (NaN if that is not known).

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        rows: Number of samples of the dataset.
        momentum: How the optimiser carried gradients on (`momentum_of`).
        direction: Column of the effect signal.

    Raises:
        IndistinguishableError: No draw was observed, or all have the same signal.
    """
    draws = contributions(observations, steps, momentum=momentum, direction=direction)
    n = draws.count_by_row(rows)
    mean = draws.sum_by_row(draws.standard, rows) / np.maximum(n, 1)
    squares = draws.sum_by_row((draws.standard - mean[draws.row]) ** 2, rows)
    function = fit_row_variance(mean, squares, n, scale_error=draws.scale_error)
    noise = np.where(n >= 2, squares / np.maximum(n - 1, 1), function.at(mean))
    if function.degrees_of_freedom == 0:
        noise[n == 1] = np.nan
    excess = draws.scale_in_step**2 * (draws.standard**2 - noise[draws.row])
    return np.where(n > 0, draws.sum_by_row(excess, rows), 0.0)


def composed_mu(
    observations: Observations, steps: Steps, *, rows: int, momentum: Momentum, direction: int = 0
) -> Floats:
    """Return mu_comp_i = sqrt(sum_t mu_ti^2), [rows]: the influence if it were known which steps drew the sample.

    It has no sign, and is larger than |mu| by about sqrt(N / B): for mu the random draw of every batch hides the
    sample, for the composition it does not.

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        rows: Number of samples of the dataset.
        momentum: How the optimiser carried gradients on (`momentum_of`).
        direction: Column of the effect signal.

    Raises:
        IndistinguishableError: No draw was observed, or all have the same signal.
    """
    squares = composed_squares(observations, steps, rows=rows, momentum=momentum, direction=direction)
    return np.sqrt(np.maximum(squares, 0.0))
