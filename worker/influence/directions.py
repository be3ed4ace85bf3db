"""Which directions a run's gradients are compared with: linear combinations of the probe items' own gradients.

Each probe has three kinds. *Targets* are the mean over its unwanted answers and, where it has them, over its reference
answers. *Held out* directions are the same means over the items of all folds but one. *Placebos* represent no
behaviour: the items' deviations from the mean of their side, summed with random signs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PLACEBOS = 20
"""Placebo directions of an audit with one probe; several probes share the number."""

MIN_PLACEBOS = 5
"""The least number of placebos of each probe, where several probes share `PLACEBOS`."""


class Kind(IntEnum):
    """What a direction is for."""

    UNWANTED = 0
    REFERENCE = 1
    HELD_OUT = 2
    PLACEBO = 3


@dataclass(frozen=True)
class ProbeShape:
    """How many items a probe has and which of them are held out together."""

    folds: Integers
    """[items]: fold of each item; one fold for all means that none can be held out."""
    has_reference: bool

    @property
    def items(self) -> int:
        """Number of unwanted answers."""
        return len(self.folds)

    @property
    def gradients(self) -> int:
        """Number of item gradients: those of the unwanted answers, then those of the reference answers."""
        return self.items * (2 if self.has_reference else 1)


@dataclass(frozen=True)
class Directions:
    """D directions, targets first, over the item gradients of P probes."""

    kind: Integers
    """[D]: each column's `Kind`."""
    probe: Integers
    """[D]: which probe each column belongs to, counted from 0."""
    coefficients: tuple[Floats, ...]
    """One array per probe, [its directions, its gradients], its directions in the order of their columns."""
    held_out: tuple[Integers, ...]
    """One array per probe, [sides, items]: which column is the mean over the side's answers outside the item's own
    fold; -1 where there is none. The side of the unwanted answers comes first, then that of the references if there are
    any."""

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def targets(self) -> int:
        """Number of columns that are targets. They come first, and effects are recorded for them alone."""
        return int((self.kind <= Kind.REFERENCE).sum())

    def columns(self, probe: int, kind: Kind) -> Integers:
        """Return the columns of one kind that belong to one probe.

        Args:
            probe: The probe's number, counted from 0.
            kind: The kind of direction.

        Returns:
            [columns], indices into the D directions, rising; empty if the probe has none of the kind.
        """
        return np.flatnonzero((self.kind == kind) & (self.probe == probe))

    def of_probe(self, probe: int) -> Integers:
        """Return the indices of all columns of a probe, in the order of its coefficients."""
        return np.flatnonzero(self.probe == probe)


def plan(probes: Sequence[ProbeShape], *, seed: int) -> Directions:
    """Lay out the directions of a run, targets first.

    Args:
        probes: The shape of each probe, in the order of the audit; at least one.
        seed: Seeds the random signs of the placebos, so that a run can be repeated.

    Returns:
        All columns and their coefficients. A probe with one fold has no held-out directions, and one with a single item
        no placebos.

    Raises:
        ValueError: There is no probe, or one of them has no item.
    """
    if not probes or any(not shape.items for shape in probes):
        raise ValueError("a run needs at least one probe, and each probe an item")
    placebos = max(MIN_PLACEBOS, -(-PLACEBOS // len(probes)))
    rng = np.random.default_rng(seed)
    columns: list[tuple[int, int, Floats]] = []
    for number, shape in enumerate(probes):
        sides = [np.arange(shape.items)]
        if shape.has_reference:
            sides.append(shape.items + np.arange(shape.items))
        for kind, side in zip((Kind.UNWANTED, Kind.REFERENCE), sides, strict=False):
            columns.append((kind, number, _mean_over(side, shape.gradients)))
        folds = np.unique(shape.folds)
        if len(folds) > 1:
            for side in sides:
                rest = [side[shape.folds != fold] for fold in folds]
                columns += [(Kind.HELD_OUT, number, _mean_over(items, shape.gradients)) for items in rest]
        if shape.items > 1:
            columns += [(Kind.PLACEBO, number, _placebo(sides, shape.gradients, rng)) for _ in range(placebos)]
    # Targets of all probes first; a stable sort keeps the rest in order.
    columns.sort(key=lambda column: max(column[0], Kind.REFERENCE))
    kinds = np.array([column[0] for column in columns], dtype=np.int64)
    probe = np.array([column[1] for column in columns], dtype=np.int64)
    coefficients = tuple(
        np.stack([row for _, owner, row in columns if owner == number]) for number in range(len(probes))
    )
    held_out = []
    for number, shape in enumerate(probes):
        own = np.flatnonzero((kinds == Kind.HELD_OUT) & (probe == number))
        folds, fold = np.unique(shape.folds, return_inverse=True)
        size = shape.gradients // shape.items
        none = np.full((size, shape.items), -1, dtype=np.int64)
        held_out.append(own.reshape(size, len(folds))[:, fold] if len(own) else none)
    return Directions(kinds, probe, coefficients, tuple(held_out))


def _mean_over(items: Integers, size: int) -> Floats:
    row = np.zeros(size)
    row[items] = 1.0 / len(items)
    return row


def _placebo(sides: Sequence[Integers], size: int, rng: np.random.Generator) -> Floats:
    row = np.zeros(size)
    for side in sides:
        signs = rng.choice([-1.0, 1.0], size=len(side))
        # Centred: no placebo holds a share of what the items have in common, which is the behaviour.
        row[side] = (signs - signs.mean()) / len(side)
    return row if np.any(row) else _placebo(sides, size, rng)
