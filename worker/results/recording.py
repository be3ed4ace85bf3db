"""The output of a training step that the combining step reads: arrays and facts in one .npz file without pickles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from service.contract.results import SplitObstacle
from worker.influence.directions import Kind
from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps
from worker.results.token_split import TokenSplit
from worker.training.encoding import EncodingFacts

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class RunFacts(BaseModel):
    """Figures of one training run that are not arrays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int
    tokens: int
    refreshes: int
    momentum: float
    """b1 of AdamW, which all runs of the service train with."""
    rows_truncated: int
    """Samples that lose tokens with loss to the limit; in recordings from before per-sample counts, samples that lose
    any token."""
    encoding: EncodingFacts = EncodingFacts()
    """Empty in recordings from before it was kept."""
    train_loss_first: float
    train_loss_last: float
    device: str
    versions: dict[str, str]
    seconds: dict[str, float]
    split_obstacle: SplitObstacle | None = None
    """Why the run has no split over tokens; None also in recordings from before there was one."""

    @property
    def adam_momentum(self) -> Momentum:
        """How the run carried gradients on."""
        return Momentum(self.momentum, corrected=True)


@dataclass(frozen=True)
class Recording:
    """One seed's run, with D directions (targets first), K targets, P probes, R measurements of the probe losses."""

    observations: Observations
    steps: Steps
    kind: Integers
    """[D]: each column's `directions.Kind`."""
    probe: Integers
    """[D]: which probe each column belongs to, counted from 0."""
    held_out: tuple[Integers, ...]
    """One array per probe, [sides, items]: which column is the mean over the side's answers outside the item's own
    fold; -1 where there is none. The side of the unwanted answers comes first, then that of the references if there are
    any."""
    item_alignment: tuple[Floats, ...]
    """One array per probe, [blocks, items of both sides, its own columns]: cosine of each item gradient with each
    direction."""
    coefficients: tuple[Floats, ...]
    """One array per probe, [its own columns, items of both sides]: each direction as a combination of the items."""
    inner: NDArray[np.float16]
    """[turns, parts, width]: how the model's inner layers represented the turns of each draw, draw by draw
    (`inner_representation`): all of the turn, then its last token."""
    turns: Integers
    """[n]: how many of them are each draw's."""
    inner_items: tuple[NDArray[np.float16], ...]
    """One array per probe, [blocks, items of both sides, parts, width]: representations of its items, at the start of
    each block."""
    product: Floats
    """[n, K]: TracIn's terms <G, g>, without the learning rate."""
    gradient_norm: Floats
    """[n]: length of the sample's gradient."""
    loss: Floats
    """[n]: the sample's own loss."""
    similarity: Floats
    """[n, P]: cosine of the answer's representation with that of the unwanted answers."""
    measured_at: Integers
    """[R]: number of steps taken before each measurement of the probe losses."""
    probe_loss: Floats
    """[R, K]: the mean loss of each target's answers."""
    tokens_left_out: Floats | None
    """[rows]: tokens of each sample that have loss and lie behind the limit; NaN if it cannot be encoded. None in
    recordings from before it was kept."""
    facts: RunFacts
    split: TokenSplit | None = None
    """How the alignment of the samples that rank first by this run is split over their tokens."""

    def column(self, probe: int, kind: Kind) -> int | None:
        """Return the first column of a kind of direction; None if the probe has none.

        Args:
            probe: The probe's number, counted from 0.
            kind: The kind of direction.
        """
        found = self.columns(probe, kind)
        return int(found[0]) if len(found) else None

    def columns(self, probe: int, kind: Kind) -> Integers:
        """Return all columns of a kind of direction, [columns].

        Args:
            probe: The probe's number, counted from 0.
            kind: The kind of direction.
        """
        return np.flatnonzero((self.kind == kind) & (self.probe == probe))

    def save(self, path: Path) -> None:
        """Write the recording to a file, float signals of the draws in single precision."""
        arrays: dict[str, NDArray[np.generic]] = {
            "row": self.observations.row,
            "step": self.observations.step,
            "effect": self.observations.effect.astype(np.float32),
            "alignment": self.observations.alignment.astype(np.float32),
            "learning_rate": self.steps.learning_rate,
            "clip": self.steps.clip,
            "batch_size": self.steps.batch_size,
            "block": self.steps.block,
            "kind": self.kind,
            "probe": self.probe,
            "inner": self.inner,
            "turns": self.turns,
            "product": self.product.astype(np.float32),
            "gradient_norm": self.gradient_norm.astype(np.float32),
            "loss": self.loss.astype(np.float32),
            "similarity": self.similarity.astype(np.float32),
            "measured_at": self.measured_at,
            "probe_loss": self.probe_loss,
            "facts": np.frombuffer(self.facts.model_dump_json().encode(), dtype=np.uint8),
        }
        for number in range(len(self.held_out)):
            arrays[f"held_out_{number}"] = self.held_out[number]
            arrays[f"item_alignment_{number}"] = self.item_alignment[number]
            arrays[f"coefficients_{number}"] = self.coefficients[number]
            arrays[f"inner_items_{number}"] = self.inner_items[number]
        if self.tokens_left_out is not None:
            arrays["tokens_left_out"] = self.tokens_left_out
        if self.split is not None:
            arrays.update(self.split.arrays())
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # numpy's stub has no arrays by name

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """Read a file that `save` wrote.

        Raises:
            OSError: The file cannot be read.
            KeyError: An array is missing.
            ValueError: The file is not a recording.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}

        def floats(name: str) -> Floats:
            return np.asarray(arrays[name], dtype=np.float64)

        probes = sum(name.startswith("held_out_") for name in arrays)
        return cls(
            observations=Observations(arrays["row"], arrays["step"], floats("effect"), floats("alignment")),
            steps=Steps(floats("learning_rate"), floats("clip"), arrays["batch_size"], arrays["block"]),
            kind=arrays["kind"],
            probe=arrays["probe"],
            held_out=tuple(arrays[f"held_out_{number}"] for number in range(probes)),
            item_alignment=tuple(floats(f"item_alignment_{number}") for number in range(probes)),
            coefficients=tuple(floats(f"coefficients_{number}") for number in range(probes)),
            inner=_with_parts(arrays["inner"], 3),
            # A recording of an earlier version has one representation of all turns.
            turns=arrays.get("turns", np.ones(len(arrays["row"]), dtype=np.int64)),
            inner_items=tuple(_with_parts(arrays[f"inner_items_{number}"], 4) for number in range(probes)),
            product=floats("product"),
            gradient_norm=floats("gradient_norm"),
            loss=floats("loss"),
            similarity=floats("similarity"),
            measured_at=arrays["measured_at"],
            probe_loss=floats("probe_loss"),
            tokens_left_out=arrays.get("tokens_left_out"),
            facts=RunFacts.model_validate_json(arrays["facts"].tobytes()),
            split=TokenSplit.from_arrays(arrays),
        )


def _with_parts(inner: NDArray[np.float16], dimensions: int) -> NDArray[np.float16]:
    """Return representations [..., parts, width]; a recording of an earlier version has one part and no axis for it."""
    return inner if inner.ndim == dimensions else inner[..., None, :]


def mean_over_draws(recordings: Sequence[Recording], values: Sequence[Floats], rows: int) -> Floats:
    """Return the mean of each row's values over its draws in all recordings, [rows]; NaN if it has none.

    Args:
        recordings: One per seed.
        values: For each recording, [draws]; NaN is left out.
        rows: Number of samples of the dataset.
    """
    total, count = np.zeros(rows), np.zeros(rows)
    for recording, of_draw in zip(recordings, values, strict=True):
        seen = np.isfinite(of_draw)
        row = recording.observations.row[seen]
        total += np.bincount(row, of_draw[seen], minlength=rows)
        count += np.bincount(row, minlength=rows)
    return np.divide(total, count, out=np.full(rows, np.nan), where=count > 0)
