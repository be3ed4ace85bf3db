"""How sure: the statistic Z of every sample, the null fitted to the bulk, p, q and flags."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import false_discovery_control, norm, t

from worker.influence.observations import Observations, Steps

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

TAIL_DEGREES_OF_FREEDOM = 13.0
"""Of the Student t tail: the most that holds the false discovery rate at 1 % poison under the skew and kurtosis that
real nulls show (docs/decisions/0011)."""

TRUNCATION = 1.5
"""Robust standard deviations around the median within which the null is fitted: poison lies outside."""

MAD = 1.482602218505602
"""Makes the median absolute deviation a standard deviation for Gaussian data."""


@dataclass(frozen=True)
class Null:
    """Null distribution of Z: location + scale * Student t. p says "unlike the bulk", not "no influence"."""

    location: float
    scale: float
    degrees_of_freedom: float

    def sf(self, z: Floats) -> Floats:
        """One-sided p-value."""
        return np.asarray(t.sf((z - self.location) / self.scale, self.degrees_of_freedom))

    def pdf(self, z: Floats) -> Floats:
        """Density."""
        return np.asarray(t.pdf((z - self.location) / self.scale, self.degrees_of_freedom) / self.scale)


@dataclass(frozen=True)
class Detection:
    """One entry a sample; NaN (and not flagged) for samples never observed."""

    z: Floats
    n: Counts
    p: Floats
    q: Floats
    flagged: NDArray[np.bool_]
    null: Null


def statistic(observations: Observations, steps: Steps, *, rows: int, direction: int = 0) -> tuple[Floats, Counts]:
    """Z_i = (m_i - m) / sqrt(tau^2 + s^2 / n_i) and n_i from the alignment signals; [rows] each.

    m_i is the mean of i's signals, each centred and scaled by median and MAD within its block of steps. tau^2 is the
    variance between samples and s^2 within a sample, both robust: epochs of one sample correlate, so a second
    observation adds less than an independent one would.
    """
    signal = observations.alignment[:, direction]
    observed = np.isfinite(signal)
    row, signal = observations.row[observed], signal[observed]
    block = steps.block[observations.step[observed]]
    standard = _standardise(signal, block)
    n = np.bincount(row, minlength=rows).astype(np.int64)
    m = np.bincount(row, standard, minlength=rows) / np.maximum(n, 1)
    between, within = _variance_components(row, standard, m, n)
    scale = np.sqrt(between + within / np.maximum(n, 1))
    if not np.any(scale > 0):
        raise ValueError("every sample has the same alignment with the probe; nothing can be told apart")
    z = (m - np.median(m[n > 0])) / np.where(scale > 0, scale, np.nan)
    z[n == 0] = np.nan
    return z, n


def detect(z: Floats, n: Counts, *, q: float) -> Detection:
    """p from the fitted null, one-sided; q-values and flags by Benjamini-Hochberg at level q."""
    observed = np.isfinite(z)
    null = fit_null(z[observed])
    p = np.full(len(z), np.nan)
    p[observed] = null.sf(z[observed])
    q_values = np.full(len(z), np.nan)
    q_values[observed] = false_discovery_control(p[observed], method="bh")
    flagged = np.zeros(len(z), dtype=bool)
    flagged[observed] = q_values[observed] <= q
    return Detection(z, n, p, q_values, flagged, null)


def fit_null(z: Floats) -> Null:
    """Location and scale by maximum likelihood of a normal distribution truncated to median +- 1.5 robust SD.

    Needs no assumption on how many samples are poisoned nor how far out they lie (Efron 2004, empirical null).
    Raises ValueError for fewer than 10 values or no spread.
    """
    if len(z) < 10:
        raise ValueError(f"a null needs at least 10 observed samples, got {len(z)}")
    centre = float(np.median(z))
    robust = float(MAD * np.median(np.abs(z - centre)))
    if robust == 0.0:
        raise ValueError("more than half of the samples have the same statistic; no null can be fitted")
    inside = (z[np.abs(z - centre) <= TRUNCATION * robust] - centre) / robust
    mean, square = float(inside.mean()), float((inside**2).mean())

    def negative_log_likelihood(parameters: Floats) -> float:
        location, scale = parameters[0], np.exp(parameters[1])
        mass = norm.cdf((TRUNCATION - location) / scale) - norm.cdf((-TRUNCATION - location) / scale)
        exponent = (square - 2 * location * mean + location**2) / (2 * scale**2)
        return float(exponent + np.log(scale) + np.log(mass))

    # Few samples can make the likelihood rise toward a flat density; the bounds keep the scale near the robust one.
    best = minimize(
        negative_log_likelihood, x0=[mean, 0.0], bounds=[(-1.0, 1.0), (np.log(0.7), np.log(1.5))], method="L-BFGS-B"
    )
    return Null(centre + robust * float(best.x[0]), robust * float(np.exp(best.x[1])), TAIL_DEGREES_OF_FREEDOM)


def _standardise(signal: Floats, block: NDArray[np.int64]) -> Floats:
    result = np.empty_like(signal)
    for number in np.unique(block):
        members = block == number
        centre = np.median(signal[members])
        spread = MAD * np.median(np.abs(signal[members] - centre))
        result[members] = (signal[members] - centre) / spread if spread > 0 else 0.0
    return result


def _variance_components(row: NDArray[np.int64], standard: Floats, m: Floats, n: Counts) -> tuple[float, float]:
    """Robust variance between samples (tau^2) and within a sample (s^2)."""
    order = np.argsort(row, kind="stable")
    same = row[order][1:] == row[order][:-1]
    differences = np.diff(standard[order])[same]
    within = float((MAD * np.median(np.abs(differences))) ** 2 / 2) if len(differences) else 0.0
    typical = n == np.bincount(n[n > 0]).argmax()
    spread = m[typical] - np.median(m[typical])
    total = float((MAD * np.median(np.abs(spread))) ** 2)
    return max(total - within / n[typical][0], 0.0), within
