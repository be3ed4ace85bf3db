"""What each draw of a sample adds to the sample's mu: momentum, clipping, centring and the reference law."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.influence.errors import IndistinguishableError
from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

WINDOW_DRAWS = 32
"""Least number of draws that a mean and a spread are taken over; shorter blocks of steps are joined with the next."""

T_FREEDOM = 4.0
"""Degrees of freedom of the Student t that scales are fitted with: heavy tails, since those of real effects are."""

SCALE_ROUNDS = 20
"""Iterations of that fit."""


@dataclass(frozen=True)
class Contributions:
    """One entry for each draw that moved the weights and was observed; mu is the sum of `value` over a row's draws."""

    draw: Counts
    """Position of the draw among the observations."""
    row: Counts
    step: Counts
    signal: Floats
    """s, the recorded effect of the draw."""
    value: Floats
    """w_t k_t (s - sbar) / B_t over the reference: what the draw adds to its row's mu."""
    standard: Floats
    """s - sbar in units of the robust scale of its window, so that draws of a row are alike in scale."""
    scale: Floats
    """value = scale * standard."""
    window: Counts
    """Number of the draw's window: neighbouring blocks of steps that share sbar and sigma, counted from 0."""
    scale_error: float
    """Relative variance of a window's scale as an estimate, averaged over the draws."""
    centring_variance: Floats
    """Variance of sbar in units of `standard`^2."""
    scale_in_step: Floats
    """(s - sbar) / (sigma_t sqrt(B_t)), the draw's shift in units of its own step's noise, is this * standard."""
    step_scale: Floats
    """w_t k_t sigma_t / sqrt(B_t) over the reference of the draw's step: that step's part of the reference law."""

    def sum_by_row(self, values: Floats, rows: int) -> Floats:
        """Sum a value over the draws of each row.

        Args:
            values: [draws], one value per draw.
            rows: Number of samples of the dataset.

        Returns:
            [rows]; 0 for a row without a draw.
        """
        return np.bincount(self.row, values, minlength=rows).astype(np.float64)

    def count_by_row(self, rows: int) -> Counts:
        """Return the number of draws of each row, [rows]."""
        return np.bincount(self.row, minlength=rows).astype(np.int64)


def contributions(observations: Observations, steps: Steps, *, momentum: Momentum, direction: int = 0) -> Contributions:
    """Split mu into what each draw adds to it.

    Draws without a finite effect, and those of steps without a learning rate, are left out. sbar and sigma are taken
    over windows of steps: blocks that share a probe gradient, joined until each window has `WINDOW_DRAWS` draws.

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        momentum: How the optimiser carried gradients on.
        direction: Column of the effect signal.

    Returns:
        One entry for each draw that moved the weights and was observed, [draws].

    Raises:
        IndistinguishableError: No draw was observed, or all have the same signal.
    """
    signal = observations.effect[:, direction]
    # Draws that are scored after the last step moved nothing: their steps have a learning rate of 0.
    observed = np.isfinite(signal) & (steps.learning_rate[observations.step] > 0)
    row, step, signal = observations.row[observed], observations.step[observed], signal[observed]
    if not len(signal):
        raise IndistinguishableError(
            "No draw of any sample was observed: the run has too few steps.",
            "Raise training.epochs, or lower training.batch_size.",
        )
    window = _windows(steps.block[step])
    count = np.bincount(window)
    centred = signal - (np.bincount(window, signal) / count)[window]
    variance = np.bincount(window, centred**2) / np.maximum(count - 1, 1)
    robust = _robust_scale(centred, window, variance)

    seen, first = np.unique(step, return_index=True)
    weight = momentum.step_weights(steps.learning_rate) * steps.clip
    part = weight[seen] * np.sqrt(variance[window[first]] / steps.batch_size[seen])
    reference = float(np.sqrt(np.sum(part**2)))
    if reference == 0.0:
        raise IndistinguishableError(
            "Every sample has the same effect on the probe, so that nothing can be told apart."
        )
    factor = weight[step] / steps.batch_size[step] / reference
    varies = robust > 0
    inverse = np.where(varies, 1 / np.where(varies, robust, 1.0), 0.0)
    return Contributions(
        draw=np.flatnonzero(observed),
        row=row,
        step=step,
        signal=signal,
        value=factor * centred,
        standard=centred * inverse[window],
        scale=factor * robust[window],
        window=window,
        scale_error=float(np.mean((T_FREEDOM + 3) / (2 * T_FREEDOM) / count[window])),
        centring_variance=(variance * inverse**2 / count)[window],
        scale_in_step=(robust / np.sqrt(np.where(varies, variance, 1.0)))[window] / np.sqrt(steps.batch_size[step]),
        step_scale=(part / reference)[np.searchsorted(seen, step)],
    )


def _windows(block: Counts) -> Counts:
    """Number the windows of draws: consecutive blocks are joined until each window has WINDOW_DRAWS draws; [draws]."""
    blocks, index, count = np.unique(block, return_inverse=True, return_counts=True)
    number = np.zeros(len(blocks), dtype=np.int64)
    window, filled, left = 0, 0, int(count.sum())
    for position in range(len(blocks)):
        number[position] = window
        filled += int(count[position])
        left -= int(count[position])
        if filled >= WINDOW_DRAWS and left >= WINDOW_DRAWS:
            window, filled = window + 1, 0
    return number[index]


def _robust_scale(centred: Floats, window: Counts, variance: Floats) -> Floats:
    """Fit the scale of each window by maximum likelihood of a Student t with 4 degrees of freedom, [windows].

    Under the tails that real effects have, the standard deviation of a window is uncertain by half, and a wrong one
    would look like noise of the rows. The scale is zero only where the window has no spread.
    """
    count = np.bincount(window)
    square = variance.copy()
    for _ in range(SCALE_ROUNDS):
        ratio = centred**2 / np.where(square > 0, square, 1.0)[window]
        square = square * np.bincount(window, (T_FREEDOM + 1) * ratio / (T_FREEDOM + ratio)) / count
    # Where most draws are equal the likelihood rises toward a scale of zero.
    return np.sqrt(np.where(square > 1e-6 * variance, square, variance))
