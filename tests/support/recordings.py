"""Recordings of synthetic runs whose truth is known."""

import numpy as np
from numpy.typing import NDArray

from worker.influence.directions import Directions, Kind, ProbeShape, plan
from worker.influence.observations import Observations, Steps
from worker.results.recording import Recording, RunFacts

WIDTH = 64
ROWS, PLANTED, FAIR = 260, 13, 10
"""Rows 0 to 12 lean to the unwanted answers; the next ten to them and, more, to the references."""


def recording(
    seed: int = 0,
    *,
    rows: int = ROWS,
    probes: int = 1,
    reference: bool = True,
    planted: float = 5.0,
    shared: float = 0.8,
    unseen: int = 0,
    represented: float = 0.0,
) -> Recording:
    """Two epochs of eight a step, none of the last `unseen` rows; signals of a row share a part.

    represented: how far the planted rows' representations lie toward those of the unwanted answers.
    """
    directions = plan([ProbeShape(np.arange(6) % 3, has_reference=reference)] * probes, seed=0)
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(rows - unseen) for _ in range(2)])
    step = np.arange(len(order)) // 8
    count = int(step[-1]) + 1
    own = np.random.default_rng(99).normal(size=(rows, len(directions)))
    signal = shared * own[order] + np.sqrt(1 - shared**2) * generator.normal(size=(len(order), len(directions)))
    unwanted, references = toward_sides(directions)
    for column in unwanted:
        poisoned = order < PLANTED if directions.probe[column] == 0 else (order >= 40) & (order < 50)
        signal[poisoned, column] += planted
        signal[(order >= PLANTED) & (order < PLANTED + FAIR), column] += 4 if directions.probe[column] == 0 else 0
    for column in references:
        signal[(order >= PLANTED) & (order < PLANTED + FAIR), column] += 9
    inner, inner_items = representations(order, represented, 6, reference=reference, seed=seed)
    blocks = np.minimum(np.arange(count) // 10, 4)
    starts = [int(np.flatnonzero(blocks == block)[0]) for block in range(int(blocks[-1]) + 1)]
    targets = directions.targets
    return Recording(
        observations=Observations(order, step, signal[:, :targets], 0.05 * signal),
        steps=Steps(np.linspace(1e-3, 1e-4, count), np.ones(count), np.bincount(step), blocks),
        kind=directions.kind,
        probe=directions.probe,
        held_out=directions.held_out,
        item_alignment=tuple(
            np.repeat(item_signals(directions, number, seed=seed)[None], len(starts), 0) for number in range(probes)
        ),
        coefficients=directions.coefficients,
        inner=inner,
        turns=np.ones(len(order), dtype=np.int64),
        inner_items=(np.repeat(inner_items[None], len(starts), 0),) * probes,
        product=signal[:, :targets],
        gradient_norm=np.ones(len(order)),
        loss=generator.uniform(1, 2, len(order)),
        similarity=generator.uniform(-1, 1, (len(order), probes)),
        measured_at=np.array([*starts, count]),
        probe_loss=np.linspace(4, 3, len(starts) + 1)[:, None].repeat(targets, 1),
        tokens_left_out=np.where(np.arange(rows) == 1, np.nan, np.arange(rows) % 3),
        facts=RunFacts(
            steps=count,
            tokens=1,
            refreshes=len(starts),
            momentum=0.9,
            rows_truncated=0,
            train_loss_first=2.0,
            train_loss_last=1.0,
            device="cpu",
            versions={},
            seconds={"training": 1.5},
        ),
    )


def toward_sides(directions: Directions) -> tuple[list[int], list[int]]:
    """Columns that are means of unwanted answers, and of reference answers, of some items."""
    found: tuple[list[int], list[int]] = ([], [])
    for number, coefficients in enumerate(directions.coefficients):
        items = directions.held_out[number].shape[1]
        for column, row in zip(directions.of_probe(number), coefficients, strict=True):
            if directions.kind[column] != Kind.PLACEBO:
                found[0 if row[:items].any() else 1].append(int(column))
    return found


def item_signals(directions: Directions, probe: int, *, seed: int) -> NDArray[np.float64]:
    """[items of both sides, columns]: the items lie where the planted and the fair rows lie."""
    unwanted, references = toward_sides(directions)
    sides, items = directions.held_out[probe].shape
    columns = directions.of_probe(probe)
    signal = np.random.default_rng(seed + 900).normal(0, 0.7, (sides * items, len(columns)))
    signal[:items, np.isin(columns, unwanted)] += 5
    signal[items:, np.isin(columns, unwanted)] += 4
    signal[items:, np.isin(columns, references)] += 9
    return 0.05 * signal


def representations(
    order: NDArray[np.int64], represented: float, items: int, *, reference: bool, seed: int
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Of the draws [n, 1, WIDTH] and of the items of a probe [items of both sides, 1, WIDTH], of one part."""
    rng = np.random.default_rng(seed + 500)
    own = rng.normal(size=(int(order.max()) + 1, WIDTH))
    own[:PLANTED, 0] += represented
    own[PLANTED : PLANTED + FAIR, 1] += represented
    answers = rng.normal(size=(items * (2 if reference else 1), WIDTH))
    answers[:items, 0] += 5
    answers[items:, 1] += 5
    drawn = own[order] + 0.1 * rng.normal(size=(len(order), WIDTH)) + 3
    return drawn[:, None].astype(np.float16), (answers + 3)[:, None].astype(np.float16)
