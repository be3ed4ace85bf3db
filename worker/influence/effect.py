"""How much: the signed f-influence mu of every sample, with its interval, from the effect signals of a run."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from worker.influence.observations import Observations, Steps

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """One entry a sample."""

    mu: Floats
    """Signed influence toward the direction; 0 for a sample never drawn."""
    low: Floats
    """Ends of the interval; NaN for a sample observed fewer than twice, which has no interval of its own."""
    high: Floats


def step_weights(learning_rate: Floats, momentum: float) -> Floats:
    """w_t = sum over u >= t of eta_u (1 - b1) b1^(u-t) / (1 - b1^u), u counted from 1: AdamW's first moment spreads
    step t's gradient over all later steps. [T] to [T].
    """
    steps = len(learning_rate)
    u = np.arange(1, steps + 1)
    applied = learning_rate * (1.0 - momentum) / (1.0 - momentum**u)
    weights = np.zeros(steps)
    tail = 0.0
    for t in range(steps - 1, -1, -1):
        tail = applied[t] + momentum * tail
        weights[t] = tail
    return weights


def effect(
    observations: Observations,
    steps: Steps,
    *,
    rows: int,
    momentum: float,
    direction: int = 0,
    confidence: float = 0.95,
) -> Effect:
    """mu_i = A_i / sqrt(sum_t (w_t k_t)^2 sigma_t^2 / B_t) with A_i = sum_{t: i in B_t} w_t k_t (s_ti - sbar_t) / B_t.

    The denominator is the spread of the drift of Q under the reference law of independent draws. Under epoch
    shuffling the true spread is about half of it, so |mu| is conservative. sbar_t and sigma_t are taken over the
    draws of a block of steps with one probe gradient. The interval takes the variance of a sample's signals as
    alpha + beta m^2, fitted over all samples.
    """
    signal = observations.effect[:, direction]
    # Draws scored after the last step moved nothing: their step has no learning rate.
    observed = np.isfinite(signal) & (steps.learning_rate[observations.step] > 0)
    row, step, signal = observations.row[observed], observations.step[observed], signal[observed]
    if not len(signal):
        raise ValueError("no draw of any sample was observed; the run has too few steps")
    _, block = np.unique(steps.block[step], return_inverse=True)
    count = np.bincount(block).astype(np.float64)
    mean = np.bincount(block, signal) / count
    centred = signal - mean[block]
    # A block of one draw has no spread of its own and takes the average one.
    variance = np.bincount(block, centred**2) / np.maximum(count - 1, 1)
    variance[count < 2] = variance[count >= 2].mean() if (count >= 2).any() else 0.0
    block_of_step = dict(zip(step, block, strict=True))

    weight = step_weights(steps.learning_rate, momentum) * steps.clip
    seen = np.array(sorted(block_of_step))
    sigma2 = np.array([variance[block_of_step[t]] for t in seen])
    reference = float(np.sqrt(np.sum(weight[seen] ** 2 * sigma2 / steps.batch_size[seen])))
    if reference == 0.0:
        raise ValueError("every sample has the same effect signal; nothing can be told apart")

    sigma = np.sqrt(np.where(variance > 0, variance, np.inf))
    standardised = centred / sigma[block]
    scale = weight[step] * sigma[block] / steps.batch_size[step] / reference
    scale = np.where(np.isfinite(scale), scale, 0.0)
    mu = _sums(row, scale * standardised, rows)

    n = np.bincount(row, minlength=rows)
    m = _sums(row, standardised, rows) / np.maximum(n, 1)
    squares = _sums(row, (standardised - m[row]) ** 2, rows)
    variance_of_row = _row_variance(m, squares, n)
    error = np.sqrt(_sums(row, scale**2, rows) * variance_of_row)
    half = norm.ppf(0.5 + confidence / 2) * error
    half[n < 2] = np.nan
    return Effect(mu, mu - half, mu + half)


def _sums(row: NDArray[np.int64], values: Floats, rows: int) -> Floats:
    """Sum of the values of each row, [rows]."""
    return np.bincount(row, values, minlength=rows).astype(np.float64)


def _row_variance(m: Floats, squares: Floats, n: NDArray[Any]) -> Floats:
    """Variance of one observation of each row, as alpha + beta m^2 fitted over rows seen at least twice.

    A pooled variance covers clean rows and only half to three quarters of the poisoned ones, whose signals vary more
    as they are larger.
    """
    repeated = n >= 2
    if not repeated.any():
        return np.full(len(n), np.nan)
    own = squares[repeated] / (n[repeated] - 1)
    pooled = squares[repeated].sum() / (n[repeated] - 1).sum()
    # m^2 holds the noise of the mean; without taking it off, beta would be fitted on noise.
    size = np.maximum(m**2 - pooled / np.maximum(n, 1), 0.0)
    x = size[repeated]
    alpha, beta = pooled, 0.0
    for _ in range(10):
        # The variance of a sample variance grows with its square, hence the weights.
        weight = (n[repeated] - 1) / np.maximum(alpha + beta * x, 1e-12 * pooled + 1e-300) ** 2
        x_mean, own_mean = np.average(x, weights=weight), np.average(own, weights=weight)
        spread = np.average((x - x_mean) ** 2, weights=weight)
        beta = max(0.0, float(np.average((x - x_mean) * own, weights=weight) / spread)) if spread > 0 else 0.0
        alpha = max(float(own_mean - beta * x_mean), 0.0)
    return np.asarray(alpha + beta * size)


def group_effect(mu: Floats, members: NDArray[np.bool_]) -> float:
    """mu_S = N / (N - |S|) sum_{i in S} mu_i; NaN for everything or nothing."""
    size, total = int(members.sum()), len(mu)
    if size in (0, total):
        return float("nan")
    return float(total / (total - size) * mu[members].sum())
