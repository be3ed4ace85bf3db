"""What an audit would have found: probe answers scored as samples of the run, and the share of them it flags."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import beta

from worker.influence.observations import Observations, Steps
from worker.influence.statistics.detection import (
    Detection,
    block_location_and_scale,
    cluster_statistic,
    detect,
    statistic,
)
from worker.influence.statistics.null_distribution import TAIL_DEGREES_OF_FREEDOM

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

INSERTED = (1, 5, 10, 20)

LARGEST_SHARE = 0.1
"""Of the dataset, that inserted tracers may be: with more of them it is the tracers' bulk that is measured."""

REPETITIONS = 10
"""Reruns for each number inserted, at least; as many more as each tracer needs to be inserted twice."""

CURVE_POINTS = 60


@dataclass(frozen=True)
class SensitivityPoint:
    """The share of `inserted` tracers that is flagged, with its 95 % Clopper-Pearson interval over tracer clusters."""

    inserted: int
    flagged: float
    low: float
    high: float


@dataclass(frozen=True)
class Sensitivity:
    """sensitivity(k) for each k."""

    tracers: int
    clusters: int
    """Tracers that are held out together count as one independent unit."""
    points: tuple[SensitivityPoint, ...]
    """Empty where no item can be held out."""


def sensitivity(
    observations: Observations,
    steps: Steps,
    item_alignment: Floats,
    held_out_direction: Integers,
    *,
    rows: int,
    epochs: int,
    q: float,
    rng: Generator,
    direction: int = 0,
    degrees_of_freedom: float = TAIL_DEGREES_OF_FREEDOM,
    cluster: Integers | None = None,
    trusted: Mask | None = None,
    inserted: Sequence[int] = INSERTED,
) -> Sensitivity:
    """Inserts k tracers into the recording and runs statistic, null and Benjamini-Hochberg again, for each k.

    item_alignment [R, items, D]: in each block of steps the alignment of each probe item's gradient with each
    direction, in the columns of `observations`. held_out_direction [items]: the column that leaves the item's cluster
    out, -1 for an item without one, which is no tracer. epochs: how often the run drew each sample. cluster, trusted
    [rows] and degrees_of_freedom as in `detect`.

    A tracer becomes a ghost row by the training law: once in each epoch, at a random step of it, it is observed with
    the alignment of that step's block, in a warm-up step not at all; without any observation it is scored once in the
    last block. Its signal is put in units of the real draws of its own direction and block and inserted, in those
    units, beside the real draws of `direction`. It was never trained on, so it looks like a sample in its first
    epoch, and sensitivity is conservative; its gradient is as fresh as the probe's, which a real sample's is only at
    the start of a block. k is kept to distinct tracers and a tenth of the rows.
    """
    tracers = np.flatnonzero(held_out_direction >= 0)
    _, cluster_of = np.unique(held_out_direction[tracers], return_inverse=True)
    size = np.bincount(cluster_of)

    def rerun(ghosts: Sequence[tuple[Integers, Floats]]) -> Detection:
        widened = _with_ghosts(observations, ghosts, rows, direction)
        z, n = statistic(widened, steps, rows=rows + len(ghosts))
        clusters = None
        if cluster is not None:
            # Every ghost is a cluster of its own.
            own = np.r_[cluster, cluster.max(initial=0) + 1 + np.arange(len(ghosts))]
            clusters = cluster_statistic(widened, steps, cluster=own)
        known = None if trusted is None else np.r_[trusted, np.zeros(len(ghosts), dtype=bool)]
        return detect(z, n, q=q, degrees_of_freedom=degrees_of_freedom, clusters=clusters, trusted=known)

    law = _GhostLaw(observations, steps, item_alignment, held_out_direction, epochs=epochs, direction=direction)
    points = []
    for k in inserted:
        if k > min(len(tracers), max(1, LARGEST_SHARE * rows)):
            continue
        hits, trials = np.zeros(len(tracers)), np.zeros(len(tracers))
        for chosen in _rounds(len(tracers), k, rng):
            found = rerun([law.draw(tracers[tracer], rng) for tracer in chosen])
            hits[chosen] += found.flagged[rows:]
            trials[chosen] += 1
        share = hits / trials
        # The reruns repeat the same few tracers; only their clusters are independent, unequal ones count for fewer.
        independent = float(size.sum() ** 2 / (size**2).sum())
        points.append(SensitivityPoint(k, float(share.mean()), *clopper_pearson(float(share.mean()), independent)))
    return Sensitivity(tracers=len(tracers), clusters=len(size), points=tuple(points))


def clopper_pearson(share: float, trials: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a probability of which `share` was seen in `trials` independent units, either of them fractional.

    A unit's own share varies less than a coin with its probability, so the interval errs toward width.
    """
    tail, hits = (1 - confidence) / 2, share * trials
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def flag_curve(mu: Floats, flagged: Mask) -> tuple[Floats, Floats]:
    """P(flagged | mu) over the rows by isotonic regression: values of mu in order, and the probability at each.

    At most 60 points, the corners of the steps. Where nothing is flagged it is zero throughout: how strong a sample
    would have to be is then not known.
    """
    order = np.argsort(mu, kind="stable")
    fitted = isotonic_regression(flagged[order].astype(np.float64))
    corner = np.zeros(len(order), dtype=bool)
    corner[fitted.blocks[:-1]] = True
    corner[fitted.blocks[1:] - 1] = True
    at = np.flatnonzero(corner)
    if len(at) > CURVE_POINTS:
        at = at[np.unique(np.linspace(0, len(at) - 1, CURVE_POINTS).round().astype(np.int64))]
    return mu[order][at], np.asarray(fitted.x)[at]


class _GhostLaw:
    """Draws a tracer's observations as the run draws a sample's."""

    def __init__(
        self,
        observations: Observations,
        steps: Steps,
        item_alignment: Floats,
        held_out_direction: Integers,
        *,
        epochs: int,
        direction: int,
    ) -> None:
        self._item_alignment, self._held_out, self._block = item_alignment, held_out_direction, steps.block
        seen = np.isfinite(observations.alignment[:, direction])
        if not seen.any():
            raise ValueError("no draw of any sample was observed; the run has too few steps")
        self._observed_step = np.zeros(len(steps), dtype=bool)
        self._observed_step[observations.step[seen]] = True
        # Draws scored after the last step took none: their step has no learning rate and belongs to no epoch.
        self._epochs = np.array_split(np.flatnonzero(steps.learning_rate > 0), epochs)
        self._last = int(np.flatnonzero(self._observed_step)[-1])
        block = steps.block[observations.step]
        self._units = {
            int(column): block_location_and_scale(observations.alignment[seen, column], block[seen])
            for column in {direction, *held_out_direction[held_out_direction >= 0].tolist()}
        }
        self._direction = direction

    def draw(self, item: int, rng: Generator) -> tuple[Integers, Floats]:
        """Steps and alignment signals of one ghost."""
        drawn = np.array([rng.choice(epoch) for epoch in self._epochs if len(epoch)], dtype=np.int64)
        drawn = drawn[self._observed_step[drawn]]
        if not len(drawn):
            drawn = np.array([self._last])
        block, column = self._block[drawn], int(self._held_out[item])
        centre, spread = self._units[column]
        centre_main, spread_main = self._units[self._direction]
        signal = self._item_alignment[block, item, column] - centre[block]
        standard = np.divide(signal, spread[block], out=np.zeros_like(signal), where=spread[block] > 0)
        return drawn, centre_main[block] + spread_main[block] * standard


def _with_ghosts(
    observations: Observations, ghosts: Sequence[tuple[Integers, Floats]], rows: int, direction: int
) -> Observations:
    """The recording of one direction, as its only column, with the ghosts as rows from `rows` on."""
    signal = np.concatenate([observations.alignment[:, direction], *(values for _, values in ghosts)])[:, None]
    return Observations(
        row=np.concatenate([observations.row, *(np.full(len(s), rows + i) for i, (s, _) in enumerate(ghosts))]),
        step=np.concatenate([observations.step, *(drawn for drawn, _ in ghosts)]),
        effect=np.full_like(signal, np.nan),
        alignment=signal,
    )


def _rounds(tracers: int, k: int, rng: Generator) -> list[Integers]:
    """Sets of k distinct tracers, such that all are inserted about equally often and at least twice."""
    count = max(REPETITIONS, -(-2 * tracers // k))
    uses = np.zeros(tracers)
    rounds = []
    for _ in range(count):
        chosen = np.lexsort((rng.random(tracers), uses))[:k]
        uses[chosen] += 1
        rounds.append(chosen)
    return rounds
