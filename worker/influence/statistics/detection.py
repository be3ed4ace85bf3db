"""The statistic Z of every sample, and its p, q and flag against the null."""

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
    """The result of one test of all samples, one entry per sample.

    p and q are NaN, and nothing is flagged, for samples never observed and for trusted ones.
    """

    z: Floats
    n: Counts
    p: Floats
    q: Floats
    flagged: Mask
    null: Null
    alone: Mask
    """Samples whose p is that of their own text, which stands out more than its near-duplicates do."""
    doubted: Mask
    """Trusted samples that would have been flagged had they not been trusted."""
    reference: Reference = "bulk"
    """What p is measured against."""


@dataclass(frozen=True)
class Clusters:
    """The statistics of C clusters of near-duplicates, which hold T different texts."""

    index: NDArray[np.int64]
    """[rows]: each sample's cluster, 0 to C - 1."""
    z: Floats
    """[C]: Z of the mean of all observations of all members; NaN if none was observed."""
    n: Counts
    """[C]: number of observations of all members."""
    text: NDArray[np.int64]
    """[rows]: each sample's text, 0 to T - 1."""
    text_z: Floats
    """[T]: Z of the mean of all observations of a text; NaN if none was observed."""

    @property
    def texts(self) -> Counts:
        """Number of different texts that were observed in each cluster, [C]."""
        _, first = np.unique(self.text, return_index=True)
        return np.bincount(self.index[first][np.isfinite(self.text_z)], minlength=len(self.z))

    def of_rows(self, alone: Mask) -> Floats:
        """Return Z of each sample's own text where it is tested alone, otherwise of its cluster, [rows]."""
        return np.where(alone, self.text_z[self.text], self.z[self.index])


def statistic(observations: Observations, steps: Steps, *, rows: int, direction: int = 0) -> tuple[Floats, Counts]:
    """Compute Z_i = (m_i - m) / sqrt(tau^2 + s^2 / n_i) from the alignment signals.

    m_i is the mean of i's signals, each centred and scaled by median and MAD within its block of steps. tau^2 is the
    variance between samples and s^2 within a sample, both robust: epochs of one sample correlate, so a second
    observation adds less than an independent one would.

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        rows: Number of samples of the dataset.
        direction: Column of the alignment signal.

    Returns:
        Z and n, the number of observations, [rows] each; Z is NaN for a row never observed.

    Raises:
        IndistinguishableError: No draw was observed, or all samples have the same alignment.
    """
    row, _, standard = standard_signals(observations, steps, direction)
    return _statistic(row, row, standard, rows)


def item_statistic(observations: Observations, steps: Steps, items: Floats, *, rows: int, direction: int = 0) -> Floats:
    """Return Z of probe items as if each were a sample drawn in every block, as often as most samples are, [items].

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        items: [blocks, items], each item's alignment with the direction in every block.
        rows: Number of samples of the dataset.
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
    observations: Observations,
    steps: Steps,
    *,
    cluster: NDArray[np.int64],
    text: NDArray[np.int64] | None = None,
    direction: int = 0,
) -> Clusters:
    """Return the statistic of clusters of near-duplicates and of the different texts in them.

    A cluster counts as one sample that was drawn as often as all its members together. The law tau^2 + s^2 / n is exact
    for exact duplicates, which share their sample's part of the variance entirely. Members that share less of it make
    the mean vary less than that, so p errs upward.

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        cluster: [rows], near-duplicates share a number.
        text: [rows], samples with the same text share a number, and with it a cluster; None if all members of a cluster
            have the same text.
        direction: Column of the alignment signal.

    Raises:
        IndistinguishableError: No draw was observed, or all samples are alike.
    """
    ids, index = np.unique(cluster, return_inverse=True)
    texts, of_text = (ids, index) if text is None else np.unique(text, return_inverse=True)
    row, _, standard = standard_signals(observations, steps, direction)
    z, n = _statistic(index[row], row, standard, len(ids))
    text_z = z if text is None else _statistic(of_text[row], row, standard, len(texts))[0]
    return Clusters(index.astype(np.int64), z, n, of_text.astype(np.int64), text_z)


def detect(
    z: Floats,
    n: Counts,
    *,
    q: float,
    degrees_of_freedom: float = TAIL_DEGREES_OF_FREEDOM,
    clusters: Clusters | None = None,
    trusted: Mask | None = None,
) -> Detection:
    """Return one-sided p-values, and q-values and flags by Benjamini-Hochberg over clusters of near-duplicates.

    A sample whose near-duplicates all have the same text has its cluster's p. Where a cluster holds k > 1 texts, which
    may teach different things, a sample's p is

        min(1, 2 min(p of the cluster, k p of its own text))

    by Bonferroni, half of the level for the cluster and half for its texts. So clean near-copies beside a poisoned
    sample cannot hide it. The cluster's own p is the least of its members', and the procedure runs over these, so that
    copies neither multiply the findings nor dilute them.

    Args:
        z: [rows], as from `statistic`.
        n: [rows], as from `statistic`.
        q: Level of the false discovery rate, in (0, 1).
        degrees_of_freedom: Upper limit of those of the null's tail.
        clusters: Near-duplicates; None if no sample has any.
        trusted: [rows], samples known to be clean. They are never flagged, and p is taken against them as far as their
            number allows (`p_values`). A cluster with a trusted member and another one is tested.

    Raises:
        IndistinguishableError: No null can be fitted.
    """
    rows = np.arange(len(z))
    clusters = Clusters(rows, z, n, rows, z) if clusters is None else clusters
    index = clusters.index
    known = np.zeros(len(z), dtype=bool) if trusted is None else trusted
    observed = np.isfinite(clusters.z)
    # A cluster with at least one untrusted member is tested.
    clean = np.ones(len(clusters.z), dtype=bool)
    clean[index[~known]] = False
    found = p_values(clusters.z[observed], trusted=clean[observed], q=q, degrees_of_freedom=degrees_of_freedom)
    of_cluster = np.full(len(clusters.z), np.nan)
    of_cluster[observed] = found.at(clusters.z[observed])
    own, together, texts = found.at(clusters.text_z)[clusters.text], of_cluster[index], clusters.texts[index]
    alone = (texts > 1) & (texts * own < together)
    p = np.where(texts > 1, np.minimum(1.0, 2 * np.where(alone, texts * own, together)), together)
    seen = np.isfinite(z)
    tested = seen & ~known
    least = np.full(len(clusters.z), np.nan)
    np.fmin.at(least, index[tested], p[tested])
    q_values = adjusted_at(p, least)
    return Detection(
        z,
        n,
        np.where(tested, p, np.nan),
        np.where(tested, q_values, np.nan),
        tested & (q_values <= q),
        found.null,
        alone=alone,
        doubted=seen & known & (q_values <= q),
        reference=found.reference,
    )


def adjusted_at(p: Floats, tested: Floats) -> Floats:
    """Return q-values: the least level at which Benjamini-Hochberg over the tested p-values rejects one as small as p.

    Args:
        p: [samples]; NaN stays NaN.
        tested: [hypotheses]; NaN for those without a p, which do not count.
    """
    found = np.full(len(p), np.nan)
    values = np.sort(tested[np.isfinite(tested)])
    known = np.isfinite(p)
    if not len(values) or not known.any():
        return found
    as_small = np.searchsorted(values, p[known], side="right")
    later = np.append(false_discovery_control(values, method="bh"), 1.0)
    found[known] = np.minimum(len(values) * p[known] / np.maximum(as_small, 1), later[as_small]).clip(max=1.0)
    return found


def standard_signals(
    observations: Observations, steps: Steps, direction: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return row, block and standardised signal of every observed draw, [draws] each.

    Args:
        observations: What was recorded of every draw.
        steps: The steps of the run.
        direction: Column of the alignment signal.

    Returns:
        The row, the block of steps, and the signal centred and scaled by median and MAD within its block (0 in a block
        without spread).
    """
    row, block, signal = _observed(observations, steps, direction)
    centre, spread = block_location_and_scale(signal, block)
    return row, block, _standardised(signal, centre[block], spread[block])


def block_location_and_scale(signal: Floats, block: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return median and robust standard deviation (1.48 MAD) of the signals of each block, [blocks] each.

    Args:
        signal: [draws].
        block: [draws], the block of each, counted from 0.

    Returns:
        Median and standard deviation, indexed by block; NaN for a block without a draw.
    """
    centre, spread = np.full((2, int(block.max(initial=-1)) + 1), np.nan)
    order = np.argsort(block, kind="stable")
    numbers, starts = np.unique(block[order], return_index=True)
    for number, members in zip(numbers, np.split(signal[order], starts[1:]), strict=True):
        centre[number] = np.median(members)
        spread[number] = MAD * np.median(np.abs(members - centre[number]))
    return centre, spread


def repeated_differences(row: NDArray[np.int64], values: Floats) -> Floats:
    """Return the differences between consecutive observations of the same sample, [pairs, ...].

    With a variance s^2 within samples they have the variance 2 s^2.

    Args:
        row: [draws], in order of time.
        values: [draws, ...], the signal of each.
    """
    order = np.argsort(row, kind="stable")
    same = row[order][1:] == row[order][:-1]
    return np.asarray(np.diff(values[order], axis=0)[same])


def variance_components(
    unit: NDArray[np.int64], row: NDArray[np.int64], standard: Floats, units: int
) -> tuple[float, float]:
    """Estimate tau^2 between units and s^2 within a sample, both robust (MAD).

    tau^2 comes from the units with the commonest number of observations, s^2 from differences between observations of
    one sample.

    Args:
        unit: [draws], the unit (a sample, a text or a cluster) that each draw belongs to.
        row: [draws], the sample drawn.
        standard: [draws], the standardised signal.
        units: Number of units.

    Returns:
        tau^2 and s^2 in squared units of the signal, at least 0; s^2 is 0 if no sample was drawn twice.
    """
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
    """[units]: number of observations."""
    mean: Floats
    """[units]: mean of the observations; zero without any."""
    between: float
    within: float

    @property
    def centre(self) -> float:
        return float(np.median(self.mean[self.n > 0]))

    def scale(self, n: Counts | np.int64) -> Floats:
        """Return the standard deviation of a mean over n observations."""
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
    """Return row, block and signal of every observed draw."""
    signal = observations.alignment[:, direction]
    observed = np.isfinite(signal)
    return observations.row[observed], steps.block[observations.step[observed]], signal[observed]


def _standardised(signal: Floats, centre: Floats, spread: Floats) -> Floats:
    """Return the signal in units of its spread around its centre; zero where there is no spread."""
    away = signal - centre
    return np.divide(away, spread, out=np.zeros_like(away), where=spread > 0)
