"""The scores of every sample, probe by probe, from the recordings of all seeds. Reads and writes no file."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.influence.directions import Kind
from worker.influence.statistics.detection import Clusters, Detection, cluster_statistic, detect, statistic
from worker.influence.statistics.mu import estimate_mu
from worker.influence.statistics.mu_composed import composed_mu
from worker.influence.statistics.null_distribution import TAIL_DEGREES_OF_FREEDOM, tail_degrees_of_freedom
from worker.influence.statistics.probes import Combination, combine_probes
from worker.influence.statistics.seeds import pool_mu, pool_z
from worker.results.kinds import ProbeKinds, Side, expected_false_share, kinds_of, sides
from worker.results.recording import Recording

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


TOPICAL_P = 0.01
"""A sample whose p toward the unwanted or the reference answers is below this counts as one on the topic."""


@dataclass(frozen=True)
class Question:
    """What an audit asks of the recordings: its error rate, and what is known about its samples."""

    rows: int
    q: float
    text: Integers
    """[rows]: samples with the same text share a number."""
    cluster: Integers
    """[rows]: near-duplicates share a number."""
    trusted: Mask | None
    """[rows]: whether the sample is known to be clean; None if none is."""


@dataclass(frozen=True)
class ProbeScores:
    """One probe's results; arrays are [rows], pooled over seeds."""

    column: int
    """The column of the unwanted answers among the recordings' directions."""
    reference_column: int | None
    detection: Detection
    """The test against the bulk alone."""
    kinds: ProbeKinds
    q: Floats
    """[rows], the least false discovery rate at which each sample is flagged. It is the larger of Benjamini and
    Hochberg's against the bulk and of the expected share of false samples by kinds, which counts fair answers as false
    too."""
    flagged: Mask
    """Whether q is at most the audit's level."""
    z_reference: Floats
    side: Sequence[Side | None]
    mu: Floats
    mu_low: Floats
    mu_high: Floats
    mu_composed: Floats
    placebo: Floats
    """[placebos, rows]: Z in directions that represent no behaviour, pooled over seeds as z is."""
    ordinary: Mask
    """[rows]: samples off the probe's topic, over which the placebos are counted."""
    z_by_seed: Floats
    """[seeds, rows]: Z of each seed alone."""
    flagged_by_seed: Mask
    """[seeds, rows]: what each seed alone finds unlike the bulk."""


@dataclass(frozen=True)
class Scores:
    """The results of all probes and the headline over them."""

    probes: tuple[ProbeScores, ...]
    headline: Combination
    """The test against the bulk alone, over all probes."""
    q: Floats
    """As for a probe; a sample counts as false if it is of no probe's unwanted kind."""
    flagged: Mask


def score(recordings: Sequence[Recording], question: Question) -> Scores:
    """Score every sample by every probe, and combine the probes.

    Args:
        recordings: One per seed, at least one.
        question: What the audit asks of them.

    Returns:
        The scores of each probe and the headline.

    Raises:
        IndistinguishableError: No null distribution can be fitted.
    """
    count = len(recordings[0].held_out)
    probes = tuple(score_probe(recordings, question, probe) for probe in range(count))
    headline = combine_probes([probe.detection for probe in probes], q=question.q, cluster=question.cluster)
    unwanted = np.array([probe.kinds.of_rows.unwanted for probe in probes]).max(0)
    q = np.fmax(headline.q, expected_false_share(unwanted, question.cluster))
    return Scores(probes, headline, q, q <= question.q)


def score_probe(recordings: Sequence[Recording], question: Question, probe: int) -> ProbeScores:
    """Score every sample by one probe.

    Args:
        recordings: One per seed, at least one.
        question: What the audit asks of them.
        probe: The probe's number, counted from 0.

    Returns:
        The probe's scores, pooled over seeds.

    Raises:
        IndistinguishableError: No null distribution can be fitted.
    """
    first = recordings[0]
    column = first.column(probe, Kind.UNWANTED)
    assert column is not None
    reference_column = first.column(probe, Kind.REFERENCE)
    placebo = _placebos(recordings, question, probe)
    columns = [column] if reference_column is None else [column, reference_column]
    pooled = [_statistics(recordings, question, own) for own in columns]
    ordinary = _ordinary([_detect(found, question) for found in pooled])
    freedom = tail_degrees_of_freedom(placebo, usable=ordinary) if len(placebo) else TAIL_DEGREES_OF_FREEDOM

    detections = [_detect(found, question, freedom) for found in pooled]
    detection = detections[0]
    alone = [detection]
    if len(recordings) > 1:
        alone = [_detect(_statistics([one], question, column), question, freedom) for one in recordings]
    clusters, z_by_seed = [found.clusters for found in pooled], [found.z_by_seed for found in pooled]
    kinds = kinds_of(recordings, probe, detections, clusters, z_by_seed, question.trusted)
    q = np.fmax(detection.q, expected_false_share(kinds.of_rows.unwanted, question.cluster))
    options = [(r.observations, r.steps, r.facts.adam_momentum) for r in recordings]
    influence = pool_mu(
        [estimate_mu(o, t, rows=question.rows, momentum=momentum, direction=column) for o, t, momentum in options]
    )
    composed = [
        composed_mu(o, t, rows=question.rows, momentum=momentum, direction=column) for o, t, momentum in options
    ]
    return ProbeScores(
        column=column,
        reference_column=reference_column,
        detection=detection,
        kinds=kinds,
        q=q,
        flagged=q <= question.q,
        z_reference=detections[-1].z if reference_column is not None else np.full(question.rows, np.nan),
        side=sides(detections, kinds.of_rows) if reference_column is not None else [None] * question.rows,
        mu=influence.mu,
        mu_low=influence.low,
        mu_high=influence.high,
        mu_composed=np.mean(composed, axis=0),
        placebo=placebo,
        ordinary=ordinary,
        z_by_seed=np.array([found.z for found in alone]),
        flagged_by_seed=np.array([found.flagged for found in alone]),
    )


@dataclass(frozen=True)
class _Pooled:
    """The statistic of one direction, over all recordings."""

    z_by_seed: Floats
    """[seeds, rows]: Z of each seed alone."""
    z: Floats
    n: Integers
    clusters: Clusters


def _statistics(recordings: Sequence[Recording], question: Question, column: int) -> _Pooled:
    parts = [statistic(r.observations, r.steps, rows=question.rows, direction=column) for r in recordings]
    clusters = [
        cluster_statistic(r.observations, r.steps, cluster=question.cluster, text=question.text, direction=column)
        for r in recordings
    ]
    z_by_seed = np.array([z for z, _ in parts])
    pooled = Clusters(
        clusters[0].index,
        pool_z(np.array([c.z for c in clusters])),
        np.sum([c.n for c in clusters], axis=0),
        clusters[0].text,
        pool_z(np.array([c.text_z for c in clusters])),
    )
    return _Pooled(z_by_seed, pool_z(z_by_seed), np.sum([n for _, n in parts], axis=0), pooled)


def _placebos(recordings: Sequence[Recording], question: Question, probe: int) -> Floats:
    columns = recordings[0].columns(probe, Kind.PLACEBO)
    found = [
        pool_z(
            np.array(
                [statistic(r.observations, r.steps, rows=question.rows, direction=int(column))[0] for r in recordings]
            )
        )
        for column in columns
    ]
    return np.array(found).reshape(len(columns), question.rows)


def _detect(found: _Pooled, question: Question, degrees_of_freedom: float = TAIL_DEGREES_OF_FREEDOM) -> Detection:
    return detect(
        found.z,
        found.n,
        q=question.q,
        degrees_of_freedom=degrees_of_freedom,
        clusters=found.clusters,
        trusted=question.trusted,
    )


def _ordinary(detections: Sequence[Detection]) -> Mask:
    """Return which samples' placebo values are used to estimate the null's tail, [rows].

    A sample on the probe's topic, on either side, also stands out in directions made of the same items; it is left out.
    """
    return ~np.any([found.p < TOPICAL_P for found in detections], axis=0)
