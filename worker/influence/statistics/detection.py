"""How sure: the statistic Z of every sample, p, q and flags against the null."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from worker.influence.errors import IndistinguishableError
from worker.influence.observations import Observations, Steps
from worker.influence.statistics.null_distribution import MAD, TAIL_DEGREES_OF_FREEDOM, Null
from worker.influence.statistics.pvalues import Reference, p_values

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Detection:
    """One entry a sample; NaN (and not flagged) for samples never observed and for trusted ones."""

    z: Floats
    n: Counts
    p: Floats
    q: Floats
    flagged: Mask
    null: Null
    reference: Reference = "bulk"
    """Against what p is taken."""


@dataclass(frozen=True)
class Clusters:
    """Near-duplicates taken as one sample each; C of them."""

    index: NDArray[np.int64]
    """[rows]: each sample's cluster, 0 to C - 1."""
    z: Floats
    """[C]: Z of the mean of all observations of all members; NaN where none was observed."""
    n: Counts
    """[C]: observations of all members."""


def statistic(observations: Observations, steps: Steps, *, rows: int, direction: int = 0) -> tuple[Floats, Counts]:
    """Z_i = (m_i - m) / sqrt(tau^2 + s^2 / n_i) and n_i from the alignment signals; [rows] each.

    m_i is the mean of i's signals, each centred and scaled by median and MAD within its block of steps. tau^2 is the
    variance between samples and s^2 within a sample, both robust: epochs of one sample correlate, so a second
    observation adds less than an independent one would.
    """
    row, _, standard = standard_signals(observations, steps, direction)
    return _statistic(row, row, standard, rows)


def item_statistic(observations: Observations, steps: Steps, items: Floats, *, rows: int, direction: int = 0) -> Floats:
    """Return Z of probe items, as of samples that were drawn as often as most are and in every block alike, [items].

    Args:
        observations: Of the run.
        steps: Of the run.
        items: [blocks, items], each item's alignment with the direction in every block.
        rows: Samples of the dataset.
        direction: The column that the items are scored in.
    """
    row, block, signal = _observed(observations, steps, direction)
    centre, spread = block_location_and_scale(signal, block)
    law = _sample_law(row, row, _standardised(signal, centre[block], spread[block]), rows)
    drawn = np.flatnonzero(spread > 0)
    standard = _standardised(items[drawn], centre[drawn, None], spread[drawn, None])
    mean = np.average(standard, axis=0, weights=np.bincount(block)[drawn])
    return np.asarray((mean - law.centre) / law.scale(np.bincount(law.n[law.n > 0]).argmax()))


def cluster_statistic(
    observations: Observations, steps: Steps, *, cluster: NDArray[np.int64], direction: int = 0
) -> Clusters:
    """The statistic of clusters of near-duplicates; cluster [rows] holds any integer id for each sample.

    A cluster is one sample that was drawn as often as all its members together. The law tau^2 + s^2 / n is exact for
    exact duplicates, which share their sample's part of the variance whole; members that share less of it make the
    mean vary less than that, so p errs upward.
    """
    ids, index = np.unique(cluster, return_inverse=True)
    row, _, standard = standard_signals(observations, steps, direction)
    z, n = _statistic(index[row], row, standard, len(ids))
    return Clusters(index.astype(np.int64), z, n)


def detect(
    z: Floats,
    n: Counts,
    *,
    q: float,
    degrees_of_freedom: float = TAIL_DEGREES_OF_FREEDOM,
    clusters: Clusters | None = None,
    trusted: Mask | None = None,
) -> Detection:
    """Return one-sided p-values, and q-values and flags by Benjamini-Hochberg.

    Args:
        z: [rows], as from `statistic`.
        n: [rows], as from `statistic`.
        q: Level of the false discovery rate.
        degrees_of_freedom: Of the null's tail, at most.
        clusters: There is one p a cluster, which every member carries; the procedure runs over clusters, so that copies
            neither multiply the findings nor dilute them.
        trusted: [rows], samples known to be clean. They are never flagged, and p is taken against them as far as their
            number allows (`p_values`). A cluster with a trusted member and another one is tested.

    Raises:
        ValueError: No null can be fitted.
    """
    index = np.arange(len(z)) if clusters is None else clusters.index
    unit_z = z if clusters is None else clusters.z
    observed = np.isfinite(unit_z)
    # One untrusted copy is enough to be tested.
    known = np.ones(len(unit_z), dtype=bool)
    known[index if trusted is None else index[~trusted]] = False
    p = np.full(len(unit_z), np.nan)
    found = p_values(unit_z[observed], trusted=known[observed], q=q, degrees_of_freedom=degrees_of_freedom)
    p[observed] = found.p
    q_values = adjusted(p)
    shown = np.isfinite(z) if trusted is None else np.isfinite(z) & ~trusted
    p, q_values = (np.where(shown, values[index], np.nan) for values in (p, q_values))
    return Detection(z, n, p, q_values, q_values <= q, found.null, found.reference)


def adjusted(p: Floats) -> Floats:
    """q-values: the least level at which Benjamini-Hochberg takes a sample; NaN where p is."""
    q_values = np.full(len(p), np.nan)
    tested = np.isfinite(p)
    if tested.any():
        q_values[tested] = false_discovery_control(p[tested], method="bh")
    return q_values


def standard_signals(
    observations: Observations, steps: Steps, direction: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Row, block and signal of every draw that was observed, the signal centred and scaled within its block."""
    row, block, signal = _observed(observations, steps, direction)
    centre, spread = block_location_and_scale(signal, block)
    return row, block, _standardised(signal, centre[block], spread[block])


def block_location_and_scale(signal: Floats, block: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Median and robust standard deviation of each block's signals, indexed by block; NaN for a block without any."""
    centre, spread = np.full((2, int(block.max(initial=-1)) + 1), np.nan)
    order = np.argsort(block, kind="stable")
    numbers, starts = np.unique(block[order], return_index=True)
    for number, members in zip(numbers, np.split(signal[order], starts[1:]), strict=True):
        centre[number] = np.median(members)
        spread[number] = MAD * np.median(np.abs(members - centre[number]))
    return centre, spread


def repeated_differences(row: NDArray[np.int64], values: Floats) -> Floats:
    """Differences between consecutive observations of the same sample; a variance s^2 within samples gives 2 s^2."""
    order = np.argsort(row, kind="stable")
    same = row[order][1:] == row[order][:-1]
    return np.asarray(np.diff(values[order], axis=0)[same])


def variance_components(
    unit: NDArray[np.int64], row: NDArray[np.int64], standard: Floats, units: int
) -> tuple[float, float]:
    """tau^2 between units and s^2 within a sample, both robust, of signals that belong to units of samples."""
    n = np.bincount(unit, minlength=units)
    m = np.bincount(unit, standard, minlength=units) / np.maximum(n, 1)
    differences = repeated_differences(row, standard)
    within = float((MAD * np.median(np.abs(differences))) ** 2 / 2) if len(differences) else 0.0
    typical = n == np.bincount(n[n > 0]).argmax()
    spread = m[typical] - np.median(m[typical])
    total = float((MAD * np.median(np.abs(spread))) ** 2)
    return max(total - within / n[typical][0], 0.0), within


@dataclass(frozen=True)
class _SampleLaw:
    """How the means of units of samples are distributed in the bulk."""

    n: Counts
    """Observations of each unit."""
    mean: Floats
    """Of each unit's observations; zero without any."""
    between: float
    within: float

    @property
    def centre(self) -> float:
        return float(np.median(self.mean[self.n > 0]))

    def scale(self, n: Counts | np.int64) -> Floats:
        """Standard deviation of a mean over n observations."""
        return np.asarray(np.sqrt(self.between + self.within / np.maximum(n, 1)))


def _sample_law(unit: NDArray[np.int64], row: NDArray[np.int64], standard: Floats, units: int) -> _SampleLaw:
    n = np.bincount(unit, minlength=units).astype(np.int64)
    mean = np.bincount(unit, standard, minlength=units) / np.maximum(n, 1)
    return _SampleLaw(n, mean, *variance_components(unit, row, standard, units))


def _statistic(unit: NDArray[np.int64], row: NDArray[np.int64], standard: Floats, units: int) -> tuple[Floats, Counts]:
    if not len(row):
        raise IndistinguishableError(
            "No draw of any sample was observed: the run has too few steps.",
            "Raise training.epochs, or lower training.batch_size.",
        )
    law = _sample_law(unit, row, standard, units)
    scale = law.scale(law.n)
    if not np.any(scale > 0):
        raise IndistinguishableError(
            "Every sample has the same alignment with the probe, so that nothing can be told apart."
        )
    z = (law.mean - law.centre) / np.where(scale > 0, scale, np.nan)
    z[law.n == 0] = np.nan
    return z, law.n


def _observed(
    observations: Observations, steps: Steps, direction: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Row, block and signal of every draw that was observed."""
    signal = observations.alignment[:, direction]
    observed = np.isfinite(signal)
    return observations.row[observed], steps.block[observations.step[observed]], signal[observed]


def _standardised(signal: Floats, centre: Floats, spread: Floats) -> Floats:
    """Zero where there is no spread."""
    away = signal - centre
    return np.divide(away, spread, out=np.zeros_like(away), where=spread > 0)
