"""How Gaussian a run is: the exact composition of its steps compared with the limit that is reported as mu."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from worker.influence.errors import IndistinguishableError
from worker.influence.observations import Observations, Steps
from worker.influence.tradeoff.composition import compose
from worker.influence.tradeoff.gaussian import GaussianTradeOff, SubsampledGaussian
from worker.influence.tradeoff.limit import CentralLimit, central_limit
from worker.influence.tradeoff.piecewise import curve_levels
from worker.influence.tradeoff.protocol import Floats, TradeOff

GROUPS = 16
"""Most distinct values of mu_t that are composed for one probability of being drawn; more are pooled into this
number."""


@dataclass(frozen=True)
class Gaussianity:
    """The trade-off of one sample's presence in a run, exact and in the limit.

    The null is training with the sample, the alternative without. The test sees every step, so the composition ignores
    the signs of the steps; the signed mu of an effect is a different number.
    """

    exact: TradeOff
    """The exact curve; `exact.inverse()` is that of the hypotheses exchanged."""
    limit: CentralLimit
    gap: float
    """Largest distance between the limit's curve and the exact one, in either direction."""


def gaussianity(step_mus: ArrayLike, probability: ArrayLike) -> Gaussianity:
    """Compose the steps of a run, exactly and in the limit.

    Step t is the subsampled Gaussian (1 - p_t) N(0, 1) + p_t N(mu_t, 1) against N(0, 1). Equal steps are composed at
    once; of more than 16 distinct mu_t, neighbouring ones share their root mean square.

    Args:
        step_mus: [T], mu_t >= 0 of each step if it draws the sample.
        probability: The probability B_t / N that it does; one for all steps, or [T].

    Returns:
        Both curves and their largest distance.

    Raises:
        ValueError: A mu is negative or not finite, a probability lies outside [0, 1], or there is no step.
    """
    mus = np.asarray(step_mus, dtype=np.float64)
    if mus.ndim != 1 or not len(mus):
        raise ValueError("the composition needs a vector of at least one step")
    if not np.isfinite(mus).all():
        raise ValueError("every step needs a finite mu; give 0 to steps that moved nothing")
    chance = np.broadcast_to(np.asarray(probability, dtype=np.float64), mus.shape)
    functions: list[TradeOff] = []
    counts: list[int] = []
    for p in np.unique(chance):
        for mu, count in _pooled(mus[chance == p]):
            functions.append(SubsampledGaussian(mu, float(p), swapped=True))
            counts.append(count)
    moving = [(f, count) for f, count in zip(functions, counts, strict=True) if f.kl() > 0]
    if not moving:
        return Gaussianity(GaussianTradeOff(0.0), CentralLimit(0.0, 0.0), 0.0)
    functions, counts = [f for f, _ in moving], [count for _, count in moving]
    exact, limit = compose(functions, counts), central_limit(functions, counts)
    alpha = curve_levels()
    fit = limit.gaussian()(alpha)
    gap = max(float(np.abs(f(alpha) - fit).max()) for f in (exact, exact.inverse()))
    return Gaussianity(exact, limit, gap)


def step_influence(observations: Observations, steps: Steps, row: int, *, direction: int = 0) -> Floats:
    """Return mu_t of one sample at every step, [T].

    It is |w_t k_t (s_ti - sbar_t) / B_t| over the spread of the drift of that step's batch, w_t k_t sigma_t /
    sqrt(B_t), which is |s_ti - sbar_t| / (sigma_t sqrt(B_t)).

    sbar_t and sigma_t are taken over the draws of a block of steps with one probe gradient, as for the effect. The
    signal of a step that did not draw the sample is unknown: it is replaced by that of the sample's draw nearest in
    time. mu_t is 0 at steps without a learning rate, and throughout for a sample never observed.

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        row: The sample.
        direction: Column of the effect signal.

    Raises:
        IndistinguishableError: All draws of one of the sample's blocks have the same effect.
    """
    signal = observations.effect[:, direction]
    moved = steps.learning_rate > 0
    late = observations.step >= len(steps)
    usable = np.isfinite(signal) & ~late
    usable[usable] = moved[observations.step[usable]]
    signal, step, rows = signal[usable], observations.step[usable], observations.row[usable]
    own = rows == row
    if not own.any():
        return np.zeros(len(steps))
    _, block = np.unique(steps.block[step], return_inverse=True)
    count = np.bincount(block)
    centred = signal - (np.bincount(block, signal) / count)[block]
    variance = np.bincount(block, centred**2) / np.maximum(count - 1, 1)
    # A block of one draw has no spread of its own and is given the average one.
    variance[count < 2] = variance[count >= 2].mean() if (count >= 2).any() else 0.0
    if not np.all(variance[block[own]] > 0):
        raise IndistinguishableError(
            "Every sample has the same effect on the probe, so that nothing can be told apart."
        )
    standardised = np.abs(centred[own]) / np.sqrt(variance[block[own]])
    drawn = step[own]
    nearest = np.abs(np.arange(len(steps))[:, None] - drawn[None, :]).argmin(axis=1)
    return np.where(moved, standardised[nearest] / np.sqrt(np.maximum(steps.batch_size, 1)), 0.0)


def _pooled(mus: Floats) -> list[tuple[float, int]]:
    """Return (mu, number of steps): the distinct values, or 16 pools of neighbours that share sum mu^2 about evenly."""
    values, count = np.unique(mus, return_counts=True)
    if len(values) <= GROUPS:
        return [(float(mu), int(n)) for mu, n in zip(values, count, strict=True)]
    squares = np.cumsum(count * values**2)
    pool = np.minimum((GROUPS * squares / squares[-1]).astype(np.int64), GROUPS - 1)
    size, total = np.bincount(pool, count), np.bincount(pool, count * values**2)
    return [(float(np.sqrt(s / n)), int(n)) for s, n in zip(total, size, strict=True) if n]
