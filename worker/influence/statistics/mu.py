"""The signed f-influence mu of every sample and of groups, with intervals, from the signals of a run."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps
from worker.influence.statistics.contribution import Contributions, contributions
from worker.influence.statistics.row_variance import RowVariance, fit_row_variance

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class MuEstimate:
    """Estimated mu, one entry per sample."""

    mu: Floats
    """Signed influence toward the direction; 0 for a sample never drawn."""
    low: Floats
    """Lower end of the interval. NaN for a sample never drawn, and for one drawn once if too few others were drawn
    again."""
    high: Floats
    """Upper end of the interval, NaN in the same cases."""
    n: Counts
    """Number of draws that moved the weights and were observed."""


@dataclass(frozen=True)
class GroupMu:
    """Estimated mu of a group as a whole."""

    mu: float
    """mu_S = N / (N - |S|) sum of its members' mu; NaN for all rows or none."""
    low: float
    high: float


def estimate_mu(
    observations: Observations,
    steps: Steps,
    *,
    rows: int,
    momentum: Momentum,
    direction: int = 0,
    confidence: float = 0.95,
) -> MuEstimate:
    """Estimate mu of every sample.

    mu_i = A_i / sqrt(sum_t (w_t k_t)^2 sigma_t^2 / B_t) with A_i = sum_{t: i in B_t} w_t k_t (s_ti - sbar_t) / B_t. The
    denominator is the spread of the drift of Q under the reference law of independent draws. Under epoch shuffling the
    true spread is about half of it, so |mu| is conservative. sbar_t and sigma_t are taken over the draws between
    refreshes of the probe gradient.

    The interval is for the expectation of mu_i over the signals that its draws could have given, with the run's own
    weights and reference; it does not include what another seed would change.

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        rows: Number of samples of the dataset.
        momentum: How the optimiser carried gradients on (`momentum_of`).
        direction: Column of the effect signal.
        confidence: Level of the interval, in (0, 1).

    Returns:
        mu, interval and number of draws of every sample, [rows].

    Raises:
        IndistinguishableError: No draw was observed, or all have the same signal.
    """
    draws = contributions(observations, steps, momentum=momentum, direction=direction)
    n = draws.count_by_row(rows)
    mean, squares = _moments(draws, n)
    low, high = _intervals(
        draws, fit_row_variance(mean, squares, n, scale_error=draws.scale_error), squares, n, confidence
    )
    return MuEstimate(draws.sum_by_row(draws.value, rows), low, high, n)


def group_mu(mu: Floats, members: NDArray[np.bool_]) -> float:
    """Return mu_S = N / (N - |S|) sum_{i in S} mu_i; NaN for all rows or none.

    Args:
        mu: [rows], as from `estimate_mu`.
        members: [rows], whether the sample belongs to the group S.
    """
    size, total = int(members.sum()), len(mu)
    if size in (0, total):
        return float("nan")
    return float(total / (total - size) * mu[members].sum())


def group_mu_with_interval(
    observations: Observations,
    steps: Steps,
    members: NDArray[np.bool_],
    *,
    momentum: Momentum,
    direction: int = 0,
    confidence: float = 0.95,
) -> GroupMu:
    """Estimate mu of a group, with an interval for the same expectation as a sample's.

    Members drawn twice or more contribute their own variance, those drawn once that of the function fitted to all;
    Student t with the degrees of freedom of Satterthwaite (1946).

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        members: [rows], whether the sample belongs to the group.
        momentum: How the optimiser carried gradients on (`momentum_of`).
        direction: Column of the effect signal.
        confidence: Level of the interval, in (0, 1).

    Returns:
        mu and its interval. All NaN for all rows or none; the interval is NaN if a member's variance is not known at
        all.

    Raises:
        IndistinguishableError: No draw was observed, or all have the same signal.
    """
    rows = len(members)
    draws = contributions(observations, steps, momentum=momentum, direction=direction)
    n = draws.count_by_row(rows)
    mean, squares = _moments(draws, n)
    mu = group_mu(draws.sum_by_row(draws.value, rows), members)
    if np.isnan(mu):
        return GroupMu(mu, mu, mu)
    variance, freedom = _group_variance(
        draws, fit_row_variance(mean, squares, n, scale_error=draws.scale_error), members, mean, squares, n
    )
    half = rows / (rows - members.sum()) * np.sqrt(variance) * stdtrit(freedom, 0.5 + confidence / 2)
    return GroupMu(mu, mu - half, mu + half)


def _moments(draws: Contributions, n: Counts) -> tuple[Floats, Floats]:
    """Return the mean of each row's standardised signals and the sum of squared deviations from it, [rows] each."""
    mean = draws.sum_by_row(draws.standard, len(n)) / np.maximum(n, 1)
    return mean, draws.sum_by_row((draws.standard - mean[draws.row]) ** 2, len(n))


def _centring_error(draws: Contributions, rows: int) -> Floats:
    """Return the variance of each row's mu from the windows' means, which a row's draws in one window share, [rows]."""
    pairs, index = np.unique(np.stack([draws.row, draws.window]), axis=1, return_inverse=True)
    together = np.bincount(index, draws.scale * np.sqrt(draws.centring_variance)) ** 2
    return np.bincount(pairs[0], together, minlength=rows).astype(np.float64)


def _intervals(
    draws: Contributions, variance: RowVariance, squares: Floats, n: Counts, confidence: float
) -> tuple[Floats, Floats]:
    """Return both ends of each row's interval for mu, [rows] each."""
    rows = len(n)
    total = draws.sum_by_row(draws.scale, rows)
    safe = np.where(total > 0, total, 1.0)
    low, high = variance.interval(
        draws.sum_by_row(draws.value, rows) / safe,
        draws.sum_by_row(draws.scale**2, rows) / safe**2,
        squares,
        n,
        extra=_centring_error(draws, rows) / safe**2,
        confidence=confidence,
    )
    return low * total, high * total


def _group_variance(
    draws: Contributions, variance: RowVariance, members: NDArray[np.bool_], mean: Floats, squares: Floats, n: Counts
) -> tuple[float, float]:
    """Return the variance of the sum of the members' mu, and its degrees of freedom."""
    share = draws.sum_by_row(draws.scale**2, len(n))
    own, once = members & (n >= 2), members & (n == 1)
    of_own = share[own] * squares[own] / (n[own] - 1)
    borrowed = share[once] * variance.at(mean[once])
    if once.any() and variance.degrees_of_freedom == 0:
        return float("nan"), 1.0
    mine = members[draws.row]
    weight = np.bincount(draws.window[mine], draws.scale[mine], minlength=int(draws.window.max()) + 1)
    centring = np.zeros(len(weight))
    centring[draws.window] = draws.centring_variance
    uncertain = float(np.sum(of_own**2 / (n[own] - 1)))
    total = float(of_own.sum() + borrowed.sum())
    return total + float(weight**2 @ centring), (total**2 / uncertain if uncertain > 0 else np.inf)
