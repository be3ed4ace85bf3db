"""The variance of one observation around its row's mean, and the interval for the mean that follows from it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, stdtrit

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

MIN_REPEATED = 20
"""The fewest rows seen twice or more that the fit needs; with fewer, each row has only its own variance."""

MAX_FITTED = 4000
"""The most rows that the fit uses, evenly spread; its three numbers gain nothing from more."""

GRID = 32
"""Points at which the distribution of means may have mass."""

DEGREES_OF_FREEDOM = (np.inf, 8.0, 3.0)
"""Values to try, from "the function explains everything" down to "hardly anything"."""

CLEAR_GAIN = 2.0
"""Gain in log likelihood that fewer degrees of freedom must bring."""

LEAST_BETA = 0.5
"""beta counts as 0 below this many of its standard errors. Half of all fits to equal variances find some beta, and the
intervals of the largest rows would be too long (coverage 0.971 and not 0.967); 1 makes them too short where a small
beta is true (0.936)."""

ROUNDS = 60
"""Most rounds of the fit."""

PRIOR_ROUNDS = 6
"""Updates of the means' distribution in each round."""

TOLERANCE = 0.003
"""Relative change of the variances at which the fit stops."""


@dataclass(frozen=True)
class RowVariance:
    """The variance function v(m) = alpha + beta min(m^2, largest^2) of an observation of a row with mean m.

    A row's own variance scatters around v(m) as v(m) d / chi^2_d, with d the degrees of freedom (infinite: it does not
    scatter; 0: v says nothing and each row has only its own variance). v is not extrapolated beyond the largest mean
    seen.
    """

    alpha: float
    beta: float
    degrees_of_freedom: float
    largest: float
    covariance: Floats
    """Covariance of the estimates of alpha and beta, [2, 2]; zero where nothing was fitted."""

    def at(self, m: Floats) -> Floats:
        """Return v(m), in the shape of m."""
        return np.asarray(self.alpha + self.beta * np.minimum(m**2, self.largest**2))

    def freedom_of_fit(self, m: Floats) -> Floats:
        """Return the degrees of freedom of v(m) as an estimate, 2 v^2 / var v (Satterthwaite 1946), in the shape of m.

        Few rows lie far out, and v is less certain there.
        """
        square = np.minimum(m**2, self.largest**2)
        c = self.covariance
        variance = c[0, 0] + 2 * c[0, 1] * square + c[1, 1] * square**2
        certain = variance <= 0
        return np.where(certain, np.inf, 2 * self.at(m) ** 2 / np.where(certain, 1.0, variance))

    def interval(
        self,
        estimate: Floats,
        share: Floats,
        squares: Floats,
        n: Counts,
        *,
        extra: Floats | float = 0.0,
        confidence: float = 0.95,
    ) -> tuple[Floats, Floats]:
        """Return both ends of the interval for each row's mean m, [rows] each.

        The interval holds every m that the estimate does not reject, with the variance taken at that m (score
        interval): |estimate - m|^2 <= t^2 (share (d v(m) + squares) / (d + n - 1) + extra), t of d + n - 1 degrees of
        freedom, fewer where v is uncertain itself. Taking the variance at the estimate would make the interval short
        just where the estimate came out small by chance.

        Args:
            estimate: [rows], weighted mean of each row's observations.
            share: [rows], sum of its squared weights (1/n for equal ones), so that its variance is v share.
            squares: [rows], sum of squared deviations from the row's unweighted mean.
            n: [rows], number of observations.
            extra: Variance from elsewhere, [rows] or one for all.
            confidence: Level of the interval, in (0, 1).

        Returns:
            Lower and upper ends; NaN where nothing is known of the row's variance.
        """
        d = self.degrees_of_freedom
        pooled = d + n - 1.0
        known = (pooled > 0) & (n > 0)
        pooled = np.where(known, pooled, 1.0)
        freedom = 1 / (1 / pooled + 1 / self.freedom_of_fit(estimate))
        quantile = np.square(stdtrit(freedom, 0.5 + confidence / 2))
        of_function = quantile * share * (1.0 if np.isinf(d) else d / pooled)
        of_row = quantile * (share * squares / pooled + extra)
        high = self._last_not_rejected(estimate, of_function, of_row)
        low = -self._last_not_rejected(-estimate, of_function, of_row)
        return np.where(known, low, np.nan), np.where(known, high, np.nan)

    def _last_not_rejected(self, x: Floats, of_function: Floats, of_row: Floats) -> Floats:
        """Return the largest m with (m - x)^2 <= of_function v(m) + of_row."""
        most = self.alpha + self.beta * self.largest**2
        high = x + np.sqrt(of_function * most + of_row)
        beyond = high >= self.largest
        # Below the largest mean the excess m - x - sqrt(...) is concave in m: it crosses zero once.
        low, top = x.copy(), high.copy()
        for _ in range(60):
            middle = (low + top) / 2
            inside = middle - x <= np.sqrt(of_function * self.at(middle) + of_row)
            low, top = np.where(inside, middle, low), np.where(inside, top, middle)
        return np.where(beyond, high, low)


def fit_row_variance(mean: Floats, squares: Floats, n: Counts, *, scale_error: float = 0.0) -> RowVariance:
    """Fit the variance function to the rows observed at least twice.

    Maximum likelihood, with the distribution of the true means left free (Kiefer and Wolfowitz 1956: mass on a grid, by
    EM). Putting the observed mean into the function instead would fit noise: of two rows with the same true mean, the
    one that came out larger would seem to vary more.

    Args:
        mean: [rows], each row's mean.
        squares: [rows], sum of squared deviations from it.
        n: [rows], number of observations.
        scale_error: Relative variance of the unit that observations were divided by. It multiplies a row's mean,
            appears as a part of beta and is subtracted.

    Returns:
        The fitted function; with 0 degrees of freedom if fewer than `MIN_REPEATED` rows were observed twice, or none
        of them varies.
    """
    repeated = np.flatnonzero(n >= 2)
    if len(repeated) < MIN_REPEATED or not squares[repeated].any():
        return RowVariance(0.0, 0.0, 0.0, float(np.abs(mean).max(initial=0.0)), np.zeros((2, 2)))
    if len(repeated) > MAX_FITTED:
        repeated = repeated[np.linspace(0, len(repeated) - 1, MAX_FITTED).astype(np.int64)]
    pooled = float(squares[repeated].sum() / (n[repeated] - 1).sum())
    m, own, count = mean[repeated] / np.sqrt(pooled), squares[repeated] / pooled, n[repeated].astype(np.float64)
    # Spaced like the noise near the middle and by ratio far out.
    unit = np.sqrt(0.5)
    low, high = np.arcsinh((m.min() - unit) / unit), np.arcsinh((m.max() + unit) / unit)
    grid = unit * np.sinh(np.linspace(low, high, GRID))
    alpha, beta = 0.7, 0.3 / max(float(np.mean(m**2)), 1.0)
    fits = [_expectation_maximisation(alpha, beta, d, grid, m, own, count) for d in DEGREES_OF_FREEDOM]
    chosen = int(np.argmax([fit.likelihood + (CLEAR_GAIN if number == 0 else 0.0) for number, fit in enumerate(fits)]))
    best = fits[chosen]
    covariance: Floats = np.asarray(np.linalg.pinv(best.information, hermitian=True), dtype=np.float64)
    beta = best.beta - scale_error
    if beta < LEAST_BETA * np.sqrt(covariance[1, 1]):
        beta, covariance = 0.0, np.diag([1 / best.information[0, 0], 0.0])
    units = np.array([pooled, 1.0])
    return RowVariance(
        alpha=best.alpha * pooled,
        beta=beta,
        degrees_of_freedom=DEGREES_OF_FREEDOM[chosen],
        largest=float(np.abs(mean[n > 0]).max()),
        covariance=np.asarray(covariance * np.outer(units, units), dtype=np.float64),
    )


@dataclass(frozen=True)
class _Fit:
    alpha: float
    beta: float
    likelihood: float
    information: Floats


def _expectation_maximisation(
    alpha: float, beta: float, d: float, grid: Floats, mean: Floats, own: Floats, count: Floats
) -> _Fit:
    """Fit the mass of the means by EM, with a Fisher scoring step on alpha and beta in each round.

    The scoring step uses the squares within rows, of n - 1 degrees of freedom, weighted by where a row's mean may lie.
    The whole likelihood would place the mean of a row that stands alone at its observations' and count n.
    """
    likelihood, matrix = -np.inf, np.zeros((2, 2))
    square = grid**2
    prior = np.full(GRID, 1 / GRID)
    n, within = count[:, None], own[:, None]
    deviation = within + n * (mean[:, None] - grid) ** 2
    floor = 1e-6 * (alpha + beta * float(np.mean(mean**2)))
    for _ in range(ROUNDS):
        v = alpha + beta * square
        if np.isinf(d):
            log_density = -0.5 * (n * np.log(v) + deviation / v)
            surplus = within / v - (n - 1)
            information = (n - 1) / 2
        else:
            log_density = (
                gammaln((d + n) / 2) - gammaln(d / 2) - n / 2 * np.log(d / 2 * v)
                - (d + n) / 2 * np.log1p(deviation / (d * v))
            )  # fmt: skip
            surplus = (d + n - 1) * within / (d * v + within) - (n - 1)
            information = (n - 1) * d / (2 * (d + n + 1))
        top = log_density.max(1, keepdims=True)
        density = np.exp(log_density - top)
        for _ in range(PRIOR_ROUNDS):
            prior = prior * (density.T @ (1 / (density @ prior))) / len(density)
        joint = prior * density
        total = joint.sum(1, keepdims=True)
        likelihood = float((np.log(total) + top).sum())
        posterior = joint / total
        score = (posterior * surplus).sum(0) / (2 * v)
        weight = (posterior * information).sum(0) / v**2
        gradient = np.array([score.sum(), score @ square])
        matrix = np.array([[weight.sum(), weight @ square], [weight @ square, weight @ square**2]])
        far = float(square.max())
        step = float(np.linalg.lstsq(matrix, gradient, rcond=None)[0][1])
        step = float(np.clip(beta + step, 0.0, 3 * beta + alpha / far)) - beta
        # alpha's step given beta's, which may have been cut short.
        change = (gradient[0] - matrix[0, 1] * step) / matrix[0, 0]
        alpha = float(np.clip(alpha + change, alpha / 3 + floor, 3 * alpha))
        beta += step
        if np.all(np.abs(alpha + beta * square - v) < TOLERANCE * v):
            break
    return _Fit(alpha, beta, likelihood, matrix)
