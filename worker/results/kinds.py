"""The kind of each sample by one probe, and the side of those that are unlike the bulk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worker.influence.statistics.detection import Clusters, Detection, item_statistic
from worker.influence.statistics.mixture import Kinds, Mixture, fit_mixture
from worker.influence.statistics.null_distribution import Null
from worker.influence.statistics.seeds import pool_z
from worker.results.recording import Recording

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

Side = Literal["toward", "against", "both"]

SIDE_CONFIDENCE = 0.9
"""A sample is assigned to a side if its probability is at least this, given that it is on one of the two."""


@dataclass(frozen=True)
class ProbeKinds:
    """The kinds of a probe's samples.

    Columns are the statistic toward the unwanted answers, then toward the references if there are any.
    """

    x: Floats
    """[clusters that are tested, columns], in units of each column's null."""
    items: Floats
    """[unwanted items, columns], in the same units; none if they cannot be held out."""
    folds: Integers
    """[unwanted items]: items with the same number were held out together."""
    mixture: Mixture
    of_rows: Kinds
    """NaN for samples never observed and for trusted ones; `fair` is also NaN for probes without references."""
    doubted: Mask
    """[rows], trusted samples that stand out and are more likely of the unwanted kind than not."""


def kinds_of(
    recordings: Sequence[Recording],
    probe: int,
    detections: Sequence[Detection],
    clusters: Sequence[Clusters],
    z_by_seed: Sequence[Floats],
    trusted: Mask | None,
) -> ProbeKinds:
    """Fit the mixture of kinds to the samples; from each cluster of near-duplicates to the one that stands out most.

    Args:
        recordings: One per seed.
        probe: The probe's number, counted from 0.
        detections: Toward the unwanted answers and, if the probe has them, toward the references.
        clusters: The clusters of each of these detections.
        z_by_seed: [seeds, rows] for each of these detections.
        trusted: [rows], whether the sample is known to be clean; None if none is.

    Returns:
        The mixture and the probabilities of every sample.
    """
    nulls = [found.null for found in detections]
    z = _side_by_side(nulls, [own.of_rows(detections[0].alone) for own in clusters])
    items = _side_by_side(nulls, _items(recordings, probe, z_by_seed))
    has_reference = len(detections) > 1
    seen = np.isfinite(z).all(1) & np.isfinite(detections[0].z)
    tested = seen if trusted is None else seen & ~trusted
    # From each cluster, keep the sample that stands out most.
    order = np.flatnonzero(tested)
    order = order[np.argsort(detections[0].p[order], kind="stable")]
    _, first = np.unique(clusters[0].index[order], return_index=True)
    x = z[order[first]]
    count = len(items) // len(detections)
    mixture = fit_mixture(
        x,
        items[:count],
        items[count:] if has_reference else None,
        degrees_of_freedom=nulls[0].degrees_of_freedom,
    )
    unwanted, fair = np.full((2, len(z)), np.nan)
    found = mixture.kinds(z[seen])
    unwanted[seen], fair[seen] = found.unwanted, found.fair
    return ProbeKinds(
        x=x,
        items=items[:count],
        folds=recordings[0].held_out[probe][0][:count],
        mixture=mixture,
        of_rows=Kinds(np.where(tested, unwanted, np.nan), np.where(tested & has_reference, fair, np.nan)),
        doubted=detections[0].doubted & (unwanted > 0.5),
    )


def expected_false_share(unwanted: Floats, cluster: Integers) -> Floats:
    """Return the expected share of false samples among each one and all that are likelier unwanted, [rows].

    Args:
        unwanted: [rows], probability of the unwanted kind; NaN for samples that are not tested.
        cluster: [rows], near-duplicates share a number. They count once, by the likeliest of them; for any other of
            them its own probability is used instead.
    """
    ids, index = np.unique(cluster, return_inverse=True)
    likeliest = np.full(len(ids), np.nan)
    np.fmax.at(likeliest, index, unwanted)
    false = np.sort(1 - likeliest[np.isfinite(likeliest)])
    found = np.full(len(unwanted), np.nan)
    tested = np.isfinite(unwanted)
    own = 1 - unwanted[tested]
    count = np.searchsorted(false, own, side="right")
    total = np.append(0.0, np.cumsum(false))[count]
    found[tested] = (total - (1 - likeliest[index[tested]]) + own) / np.maximum(count, 1)
    return found


def sides(detections: Sequence[Detection], kinds: Kinds) -> list[Side | None]:
    """Return the side of each sample that stands out.

    A sample is "toward" if, of its two probabilities that it is unwanted or fair, the first has at least nine tenths,
    "against" if the second has, otherwise "both".

    Args:
        detections: Toward the unwanted answers and toward the references.
        kinds: [rows], the probabilities of each sample.

    Returns:
        [rows]; None for samples that are flagged in neither column, and for those that are more likely of the bulk than
        of either side.
    """
    stands_out = np.any([found.flagged for found in detections], axis=0) & (kinds.bulk <= 0.5)
    either = np.maximum(kinds.unwanted + kinds.fair, np.finfo(float).tiny)
    found: list[Side | None] = []
    for out, toward in zip(stands_out, kinds.unwanted / either, strict=True):
        if not out:
            found.append(None)
        elif toward >= SIDE_CONFIDENCE:
            found.append("toward")
        else:
            found.append("against" if toward <= 1 - SIDE_CONFIDENCE else "both")
    return found


def _side_by_side(nulls: Sequence[Null], z: Sequence[Floats]) -> Floats:
    """Return the statistics of all columns, each in units of its null, [samples, columns]."""
    return np.stack([null.standardise(own) for null, own in zip(nulls, z, strict=True)], axis=1)


def _items(recordings: Sequence[Recording], probe: int, z_by_seed: Sequence[Floats]) -> list[Floats]:
    """Return Z of the probe's items in each column, [items of both sides], by directions without their own fold.

    An array is empty if the items cannot be held out.
    """
    found = []
    own = np.flatnonzero(recordings[0].probe == probe)
    held_out = recordings[0].held_out[probe]
    for of_rows, left_out in zip(z_by_seed, held_out, strict=True):
        if left_out.min() < 0:
            found.append(np.empty(0))
            continue
        of_items = []
        for one in recordings:
            signals = one.item_alignment[probe]
            value = np.full(signals.shape[1], np.nan)
            for direction in np.unique(left_out):
                fold = np.tile(left_out == direction, len(held_out))
                value[fold] = item_statistic(
                    one.observations,
                    one.steps,
                    signals[:, fold, np.searchsorted(own, direction)],
                    rows=of_rows.shape[1],
                    direction=int(direction),
                )
            of_items.append(value)
        found.append(pool_z(of_rows, np.array(of_items)))
    return found
