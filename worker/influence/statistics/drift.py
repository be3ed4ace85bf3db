"""How well the recorded effects predict the change of the probe loss: the check of mu's first-order view."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps

Floats = NDArray[np.float64]

MIN_RECORDED = 0.75
"""The least share of an interval's movement that must have recorded effects; intervals with less are not compared."""


@dataclass(frozen=True)
class PredictedDrift:
    """Predicted and realised changes of the probe loss Q, one entry per interval between two measurements.

    Only intervals are in it of which enough was recorded (`MIN_RECORDED`).
    """

    step: NDArray[np.int64]
    """Number of steps taken at the end of the interval."""
    predicted: Floats
    """First-order change of Q, in its own units."""
    realised: Floats
    """Measured change of Q."""
    recorded: Floats
    """Share of the interval's learning-rate weight whose draws have an effect signal."""
    slope: float
    """Realised over predicted, least squares through the origin: 1 is exact, below 1 over-predicts; NaN without an
    interval."""
    correlation: float
    """Pearson's correlation; NaN with fewer than three intervals or where one side is constant."""


def predicted_drift(
    observations: Observations,
    steps: Steps,
    measured_at: NDArray[np.int64],
    probe_loss: Floats,
    *,
    momentum: Momentum,
    direction: int = 0,
) -> PredictedDrift:
    """Predict the change of the probe loss Q between measurements, and compare it with the realised one.

    The predicted change of an interval is - sum_t w_t^I k_t sum_{i in B_t} s_ti / B_t over all steps t up to its end,
    with w_t^I the weight that momentum carries from step t into the interval's own steps (`Momentum.step_weights`).
    s_ti holds the probe gradient and the preconditioner of step t; weight decay is left out.

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        measured_at: [R], number of steps taken before each measurement of Q, rising, from 0 to the number of steps.
        probe_loss: [R], the measured values of Q.
        momentum: How the optimiser carried gradients on (`momentum_of`).
        direction: Column of the effect signal.

    Returns:
        At most R - 1 intervals.

    Raises:
        ValueError: Measurements and steps do not fit together.
    """
    at, losses = np.asarray(measured_at, dtype=np.int64), np.asarray(probe_loss, dtype=np.float64)
    if at.shape != losses.shape or np.any(np.diff(at) < 0) or (len(at) and (at[0] < 0 or at[-1] > len(steps))):
        raise ValueError(
            f"{len(losses)} probe losses measured at {len(at)} of {len(steps)} steps; give each loss the number of "
            "steps taken before it, in order"
        )
    drawn = np.bincount(observations.step, minlength=len(steps))
    batch_mean = np.bincount(observations.step, observations.effect[:, direction], len(steps)) / np.maximum(drawn, 1)
    known = np.isfinite(batch_mean) & (drawn == steps.batch_size)
    batch_mean = np.where(known, batch_mean, 0.0)
    starts, ends = at[:-1], at[1:]
    weights = np.array(
        [momentum.step_weights(steps.learning_rate, a, b) * steps.clip for a, b in zip(starts, ends, strict=True)]
    ).reshape(len(starts), len(steps))
    moved = weights.sum(1)
    recorded = weights[:, known].sum(1) / np.where(moved > 0, moved, 1.0)
    used = recorded >= MIN_RECORDED
    x, y = -(weights @ batch_mean)[used], np.diff(losses)[used]
    slope = float(x @ y / (x @ x)) if x.any() else float("nan")
    varies = len(x) >= 3 and np.ptp(x) > 0 and np.ptp(y) > 0
    correlation = float(np.corrcoef(x, y)[0, 1]) if varies else float("nan")
    return PredictedDrift(ends[used], x, y, recorded[used], slope, correlation)
