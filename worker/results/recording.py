"""What a training step hands to the step that combines the seeds: arrays and facts, one .npz file without pickles."""

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
    """Samples that lose tokens with loss to the limit; before per-sample counts were kept, any tokens."""
    encoding: EncodingFacts = EncodingFacts()
    """Says nothing in recordings from before it was kept."""
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
    """One seed's run. D directions, targets first; K targets; P probes; R measurements of the probe losses."""

    observations: Observations
    steps: Steps
    kind: Integers
    """[D]: directions.Kind."""
    probe: Integers
    """[D]: counted from 0."""
    held_out: tuple[Integers, ...]
    """One array a probe, [sides, items]: which column is the mean over the side's answers but for those of the item's
    own fold; -1 where there is none. The unwanted answers' side comes first, then the references' if there are any."""
    item_alignment: tuple[Floats, ...]
    """Of each probe, [blocks, items of both sides, its own columns]: cosines of item gradients with directions."""
    coefficients: tuple[Floats, ...]
    """One array a probe, [its own columns, items of both sides]: each direction as a combination of the items."""
    inner: NDArray[np.float16]
    """[n, width]: how the model's inner layers represented the answers of each draw (`inner_representation`)."""
    inner_items: tuple[NDArray[np.float16], ...]
    """One array a probe, [blocks, items of both sides, width]: likewise for its items, at the start of each block."""
    product: Floats
    """[n, K]: TracIn's terms."""
    gradient_norm: Floats
    """[n]."""
    loss: Floats
    """[n]."""
    similarity: Floats
    """[n, P]: of the answer's representation with that of the unwanted answers."""
    measured_at: Integers
    """[R]: steps taken before each measurement of the probe losses."""
    probe_loss: Floats
    """[R, K]."""
    tokens_left_out: Floats | None
    """[rows]: tokens of each sample that have loss and lie behind the limit; NaN where it cannot be encoded. None in
    recordings from before it was kept."""
    facts: RunFacts
    split: TokenSplit | None = None
    """Of the samples that rank first by the run alone, over their tokens."""

    def column(self, probe: int, kind: Kind) -> int | None:
        """The first direction of a kind of the probe numbered from 0; None where it has none."""
        found = self.columns(probe, kind)
        return int(found[0]) if len(found) else None

    def columns(self, probe: int, kind: Kind) -> Integers:
        """All directions of a kind."""
        return np.flatnonzero((self.kind == kind) & (self.probe == probe))

    def save(self, path: Path) -> None:
        """Writes the file. Float signals are kept in single precision."""
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
        """Reads what `save` wrote. Raises OSError, KeyError or ValueError for anything else."""
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
            inner=arrays["inner"],
            inner_items=tuple(arrays[f"inner_items_{number}"] for number in range(probes)),
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


def mean_over_draws(recordings: Sequence[Recording], values: Sequence[Floats], rows: int) -> Floats:
    """Return the mean of each row's values over its draws in all recordings, [rows]; NaN where it has none.

    Args:
        recordings: One a seed.
        values: Of each recording, one a draw; NaN counts for nothing.
        rows: Samples of the dataset.
    """
    total, count = np.zeros(rows), np.zeros(rows)
    for recording, of_draw in zip(recordings, values, strict=True):
        seen = np.isfinite(of_draw)
        row = recording.observations.row[seen]
        total += np.bincount(row, of_draw[seen], minlength=rows)
        count += np.bincount(row, minlength=rows)
    return np.divide(total, count, out=np.full(rows, np.nan), where=count > 0)
