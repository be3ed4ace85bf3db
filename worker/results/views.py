"""Combines the two views that a run has of each sample: the alignment of gradients, and representations.

Each view says by itself how strongly a sample resembles a probe. The combination replaces the alignment in a recording,
draw by draw, so that statistic, null, placebos and tracers are those of both views.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.contract.results import ViewWeights
from worker.influence.directions import Kind
from worker.influence.errors import IndistinguishableError
from worker.influence.observations import Observations
from worker.influence.statistics.detection import block_location_and_scale, variance_components
from worker.influence.statistics.discriminant import Discriminant, discriminate, weighted_sum
from worker.influence.statistics.highest_turn import highest_turn
from worker.results.recording import Recording, mean_over_draws

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SampleViews:
    """What each view says about every sample by one probe."""

    weights: ViewWeights
    gradient: Floats
    """[rows], in standard deviations of the bulk; NaN for samples never observed."""
    representation: Floats
    """[rows], in the same units; NaN for samples never observed."""


def with_views(
    recordings: Sequence[Recording], text: Integers, cluster: Integers
) -> tuple[list[Recording], list[tuple[SampleViews, ...]]]:
    """Replace the alignment in recordings by both views, and return what the views say.

    A view is put in standard deviations of its bulk and weighted by `view_weights`. The representation's part is the
    same in all draws of a sample, and of any other with the same text.

    Args:
        recordings: One per seed.
        text: [rows], samples with the same text share a number.
        cluster: [rows], near-duplicates share a number.

    Returns:
        The recordings with both views in place of the alignment, and for each recording the views of every probe.

    Raises:
        IndistinguishableError: A view does not tell samples apart.
    """
    found = [_with_views(recording, text, cluster) for recording in recordings]
    return [recording for recording, _ in found], [views for _, views in found]


def over_seeds(views: Sequence[Sequence[SampleViews]]) -> list[SampleViews]:
    """Return for each probe the mean of its views over the seeds that saw a sample, with the first seed's weights."""
    return [
        SampleViews(
            weights=own[0].weights,
            gradient=_mean_of_seen([one.gradient for one in own]),
            representation=_mean_of_seen([one.representation for one in own]),
        )
        for own in zip(*views, strict=True)
    ]


def view_weights(views: Sequence[tuple[Floats, Floats]]) -> tuple[float, ...]:
    """Return the weights of a linear discriminant with a diagonal covariance.

    In each view the held-out unwanted answers u are to be separated from the bulk, which is at 0 with variance 1, and
    equally from the held-out reference answers r:

        w = max(0, mean u - max(0, mean r) / 2) / ((1 + mean of var u and var r) / 2)

    Args:
        views: For each view the unwanted and the reference answers, [items] each, in units of the bulk. The second is
            empty without references; values are NaN if items cannot be held out.

    Returns:
        One weight per view, together of length 1; equal if nothing is held out or no view separates the answers.
    """
    found = []
    for unwanted, reference in views:
        against = max(0.0, float(reference.mean())) if len(reference) else 0.0
        within = np.mean([side.var(ddof=1) for side in (unwanted, reference) if len(side) > 1] or [1.0])
        found.append(max(0.0, float(unwanted.mean()) - against / 2) / ((1 + float(within)) / 2))
    size = math.hypot(*found)
    if not math.isfinite(size) or size == 0:
        return (len(views) ** -0.5,) * len(views)
    return tuple(weight / size for weight in found)


def _with_views(recording: Recording, text: Integers, cluster: Integers) -> tuple[Recording, tuple[SampleViews, ...]]:
    """Return one recording with both views in place of the alignment, and the views of every probe."""
    observations = recording.observations
    alignment = np.full_like(observations.alignment, np.nan)
    items, views = [], []
    seen = np.isfinite(observations.alignment[:, 0])
    represented = representations(recording, seen, text)
    row_of_text = np.empty(represented.text_of_turn[-1] + 1, dtype=np.int64)
    row_of_text[represented.text_of_draw] = observations.row[seen]
    cluster_of_turn = cluster[row_of_text[represented.text_of_turn]]
    for probe, (held_out, *_) in enumerate(recording.held_out):
        columns = np.flatnonzero(recording.probe == probe)
        gradient, item_gradient = _gradient_view(recording, columns, recording.item_alignment[probe])
        _, folds = np.unique(held_out, return_inverse=True)
        targets = recording.coefficients[probe] * len(held_out)
        own = np.searchsorted(columns, held_out)
        items_of_probe = represented.items[probe]
        found = _representation_view(represented.turns, items_of_probe, targets, folds, cluster_of_turn, own)
        chosen_by = np.arange(len(columns))
        # Of the references too, what the turn says that is most like the unwanted answers.
        chosen_by[_toward_references(recording, probe, columns)] = 0
        score = highest_turn(found.score, represented.text_of_turn, chosen_by).T[represented.text_of_draw]
        drawn = np.bincount(recording.steps.block[observations.step[seen]], minlength=len(item_gradient))
        mean_gradient = np.average(item_gradient, axis=0, weights=drawn)
        weights = view_weights([_by_side(mean_gradient, own), _by_side(found.item_score.T, own)])
        chosen = ViewWeights(gradient=weights[0], representation=weights[1])
        alignment[np.ix_(seen, columns)] = chosen.gradient * gradient + chosen.representation * score
        items.append(chosen.gradient * item_gradient + chosen.representation * found.item_score.T)
        of_draws = np.full((2, len(seen)), np.nan)
        of_draws[:, seen] = gradient[:, 0], score[:, 0]
        views.append(SampleViews(chosen, *(mean_over_draws([recording], [own], len(cluster)) for own in of_draws)))
    combined = Observations(observations.row, observations.step, observations.effect, alignment)
    return replace(recording, observations=combined, item_alignment=tuple(items)), tuple(views)


def _toward_references(recording: Recording, probe: int, columns: Integers) -> Mask:
    """Return which of a probe's columns lead toward its references, or some of them, [columns]."""
    _, *references = recording.held_out[probe]
    return (recording.kind[columns] == Kind.REFERENCE) | np.isin(columns, references)


def _gradient_view(recording: Recording, columns: Integers, item_alignment: Floats) -> tuple[Floats, Floats]:
    """Return signals of the observed draws [draws, columns] and of the items [blocks, items of both sides, columns].

    They are in units in which a sample's mean over its draws has variance 1 in the bulk.
    """
    observations = recording.observations
    signals = observations.alignment[:, columns]
    seen = np.isfinite(signals[:, 0])
    row, block = observations.row[seen], recording.steps.block[observations.step[seen]]
    draws, items = signals[seen], item_alignment.copy()
    n = np.bincount(row)
    typical = np.bincount(n[n > 0]).argmax()
    measured = np.arange(len(items))
    for column in range(len(columns)):
        centre, spread = block_location_and_scale(draws[:, column], block)
        spread = np.where(spread > 0, spread, np.inf)
        draws[:, column] = (draws[:, column] - centre[block]) / spread[block]
        between, within = variance_components(row, row, draws[:, column], len(n))
        scale = np.sqrt(between + within / typical)
        if not scale > 0:
            raise IndistinguishableError(
                "Every sample has the same alignment with the probe, so that nothing can be told apart."
            )
        draws[:, column] /= scale
        # A block without a draw has no unit of its own and uses that of the nearest block with one.
        drawn = np.flatnonzero(np.isfinite(centre))
        nearest = drawn[np.abs(drawn[:, None] - measured).argmin(0)]
        items[:, :, column] = (items[:, :, column] - centre[nearest, None]) / spread[nearest, None] / scale
    return draws, items


def _representation_view(
    units: Singles, items: Singles, targets: Floats, folds: Integers, cluster: Integers, own: Integers
) -> Discriminant:
    """Return one score of each turn's representation: of the whole turn, and of it with its last token beside it.

    Args:
        units: [turns, parts, width]. Of the only part, where there is one, the discriminant is taken as it is.
        items: [items of both sides, parts, width].
        targets: As of `discriminate`.
        folds: As of `discriminate`.
        cluster: As of `discriminate`.
        own: [items], the direction that leaves the item out.
    """
    found = [
        discriminate(_side_by_side(units[:, :parts]), _side_by_side(items[:, :parts]), targets, folds, cluster)
        for parts in range(1, units.shape[1] + 1)
    ]
    return weighted_sum(found, view_weights([_by_side(one.item_score.T, own) for one in found]))


def _side_by_side(parts: Singles) -> Singles:
    """Join the parts [n, parts, width] of each representation to one vector of unit length."""
    return unit_length(parts.reshape(len(parts), -1))


@dataclass(frozen=True)
class Represented:
    """The turns of all observed samples, which the discriminant is fitted to; samples with the same text share them."""

    text_of_draw: Integers
    """[observed draws], numbered from 0."""
    text_of_turn: Integers
    """[turns], ascending."""
    turns: Singles
    """[turns, parts, width], each part of unit length."""
    items: list[Singles]
    """The items of each probe, [items of both sides, parts, width], each part of unit length."""


def representations(recording: Recording, seen: Mask, text: Integers) -> Represented:
    """Return what the discriminant is fitted to: each turn's mean over the draws of its text.

    They are centred on the turns that were drawn in their block, which removes what all samples share and what training
    has changed by then.

    Args:
        recording: The seed's recording.
        seen: [draws], which draws were observed.
        text: [rows], samples with the same text share a number.
    """
    draw = np.repeat(np.arange(len(seen)), recording.turns)
    turn = np.arange(len(draw)) - np.repeat(np.cumsum(recording.turns) - recording.turns, recording.turns)
    observed = seen[draw]
    block = recording.steps.block[recording.observations.step[draw[observed]]]
    drawn = recording.inner[observed].astype(np.float32)
    items = [np.zeros(own.shape[1:], dtype=np.float32) for own in recording.inner_items]
    for number in np.unique(block):
        inside = block == number
        centre = drawn[inside].mean(0)
        drawn[inside] -= centre
        for probe, own in enumerate(recording.inner_items):
            items[probe] += unit_length(own[number].astype(np.float32) - centre)
    ids, text_of_draw = np.unique(text[recording.observations.row[seen]], return_inverse=True)
    turns_of_text = np.zeros(len(ids), dtype=np.int64)
    np.maximum.at(turns_of_text, text_of_draw, recording.turns[seen])
    first_turn = np.cumsum(turns_of_text) - turns_of_text
    place = np.zeros(len(seen), dtype=np.int64)
    place[seen] = first_turn[text_of_draw]
    total = np.zeros((turns_of_text.sum(), *drawn.shape[1:]), dtype=np.float32)
    np.add.at(total, place[draw[observed]] + turn[observed], unit_length(drawn))
    return Represented(
        text_of_draw,
        np.repeat(np.arange(len(ids)), turns_of_text),
        unit_length(total),
        [unit_length(own) for own in items],
    )


def _mean_of_seen(by_seed: Sequence[Floats]) -> Floats:
    values = np.array(by_seed)
    seen = np.isfinite(values).sum(0)
    return np.where(seen > 0, np.nansum(values, axis=0) / np.maximum(seen, 1), np.nan)


def _by_side(values: Floats, own: Integers) -> tuple[Floats, Floats]:
    """Return the held-out values of the unwanted answers and of the reference answers, [items] each.

    Args:
        values: [items of both sides, columns].
        own: [items], the column whose direction leaves the item out.
    """
    found = values[np.arange(len(values)), np.tile(own, len(values) // len(own))]
    return found[: len(own)], found[len(own) :]


def unit_length(vectors: Singles) -> Singles:
    """Scale vectors [..., width] to length 1; zero vectors stay zero."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30))
