"""Watches a training run and records, for every sample drawn, what its gradient had to do with the probes."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.influence.capture.active_directions import ActiveDirections, Preconditioner, is_aligned
from worker.influence.capture.appended_rows import AppendedRows
from worker.influence.capture.layer_stacks import Stack, kept_type
from worker.influence.capture.layer_weights import LayerWeights
from worker.influence.capture.per_sample_gradients import PerSampleGradients
from worker.influence.capture.probe_gradients import ProbeGradients
from worker.influence.directions import Directions
from worker.influence.observations import Observations, Steps

T = TypeVar("T")

SIGNALS = ("effect", "product", "alignment", "norm")
"""What is recorded of each draw, by name."""


class Recorder:
    """Records effect and alignment signals of every sample in the steps of a training loop.

        recorder = Recorder(lora_layers(model), plan([ProbeShape(...)], seed=0))
        for rows, batch in batches:
            if refresh_is_due:
                recorder.set_directions([probe_gradients(...)], preconditioner)
            with recorder.batch(rows, preconditioner, batch_size=len(rows)):
                loss.backward()
            ...
            recorder.end_step(learning_rate=..., clip=...)

    With G a target, D a direction, g a sample's gradient and P the optimiser's preconditioner:

        effect     s = <G, P g>                          over all layers, with the P of the step
        product    <G, g>                                over all layers: TracIn's term
        alignment  c = <D, g> / (|D| |g|)                over the lora_B layers, in the metric w_m P^2 of layer m,
                                                         with the P and w of the last refresh

    P^2 = 1/v_hat is the inverse diagonal Fisher information as AdamW estimates it, so no few coordinates of large
    gradients decide the alignment; w_m weighs layers by how well the probe stands out there (LayerWeights). lora_A is
    left out: its gradient passes through lora_B, which starts at zero, so it is mostly the noise of the
    initialisation (docs/statistics.md has the comparison).
    """

    def __init__(self, layers: Mapping[str, nn.Linear], directions: Directions) -> None:
        self.weights: dict[str, Tensor] = {name: layer.weight for name, layer in layers.items()}
        self.gradients = PerSampleGradients(layers)
        self.directions = directions
        self.item_alignment: list[list[NDArray[np.float64]]] = []
        """At each refresh, of each probe: cosines of its item gradients with its own directions [items, columns]."""
        self._active: ActiveDirections | None = None
        self._learned: LayerWeights | None = None
        self._block = -1
        self._steps: list[tuple[float, float, int, int]] = []
        self._batch_size = 0
        self._rows = array("q")
        self._row_steps = array("q")
        self._signals = {name: AppendedRows() for name in SIGNALS}

    def held_bytes(self) -> int:
        """Return what is held between two measurements once there was one: directions, their metric, and P."""
        every, aligned = self._sizes()
        kept = len(self.directions) * aligned * self._kept_size()
        return 4 * (every * (self.directions.targets + 1) + aligned) + kept

    def measuring_bytes(self) -> int:
        """Return what is held while a probe is measured, at most, beside a pass over its items.

        Targets old and new, the metric, P, two mean gradients, and the gradients of the items of one probe.
        """
        every, aligned = self._sizes()
        items = max(coefficients.shape[1] for coefficients in self.directions.coefficients)
        kept = (len(self.directions) + items) * aligned * self._kept_size()
        return 4 * (every * (2 * self.directions.targets + 3) + 2 * aligned) + kept

    def _sizes(self) -> tuple[int, int]:
        sizes = {name: weight.numel() for name, weight in self.weights.items()}
        return sum(sizes.values()), sum(size for name, size in sizes.items() if is_aligned(name))

    def _kept_size(self) -> int:
        like = next(iter(self.weights.values()))
        return kept_type(like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))).itemsize

    def set_directions(
        self, sides: Iterable[Sequence[ProbeGradients]], preconditioner: Preconditioner
    ) -> NDArray[np.float64] | None:
        """Make new probe gradients the active directions and begin a new block of steps.

        Args:
            sides: For each probe its unwanted and, where it has one, its reference side. A probe's are not held once
                the next probe's are asked for, so that an iterator may measure them one by one.
            preconditioner: P of the optimiser.

        Returns:
            The cosine of each target with itself at the refresh before, [targets]; None at the first.
        """
        before = self._active
        if self._learned is None:
            weight = next(iter(self.weights.values()))
            self._learned = self._layer_weights(
                weight.new_empty(0, dtype=torch.promote_types(weight.dtype, torch.float32))
            )
        self._active, item_alignment = ActiveDirections.measured(
            self.directions, sides, preconditioner, self._learned, self.weights
        )
        self.item_alignment.append(item_alignment)
        self._block += 1
        return None if before is None else self._active.turned_from(before)

    def make_room(self) -> None:
        """Before a refresh, whose own measurements take room: drops most of the active directions.

        No batch can be recorded before the next `set_directions`.
        """
        if self._active is not None:
            self._active.stack_aligned.clear()
            self._active.aligned.clear()

    def unit_direction(self, column: int) -> dict[str, Tensor]:
        """Return u = w P^2 D / |D| as of the last refresh, [numel] of each lora_B layer: alignment = <u, g> / |g|.

        |g| is in the alignment's metric, as everywhere. Where the direction is zero, u is.

        Args:
            column: Of the directions.

        Raises:
            RuntimeError: No directions were set.
        """
        active = self._active
        if active is None or not active.aligned:
            raise RuntimeError("call set_directions first: there is no direction yet")
        scale = active.weights[:, column] / active.norm[column].clamp_min(torch.finfo(active.norm.dtype).tiny)
        return {name: own[column].to(scale.dtype) * scale[active.layer[name]] for name, own in active.aligned.items()}

    @contextmanager
    def batch(self, rows: Sequence[int], preconditioner: Preconditioner | None, *, batch_size: int) -> Iterator[None]:
        """Record the forward and backward pass in the block; several micro-batches may make one step.

        The backward pass must go through sum_n loss_n / batch_size. Of a block that raises, nothing is recorded.

        Args:
            rows: The samples of the micro-batch.
            preconditioner: P of the step; None before the optimiser has one, and the draws are recorded with NaN
                signals.
            batch_size: Samples of the whole step.

        Raises:
            RuntimeError: There are no directions yet, or a layer saw no backward pass.
        """
        self._batch_size = batch_size
        if preconditioner is None:
            yield
            signals = _Signals.missing(len(rows), self.directions)
        else:
            if self._active is None or not self._active.aligned:
                raise RuntimeError("call set_directions before the first batch that has a preconditioner")
            total = _Contraction(self._active, preconditioner, len(rows))
            with self.gradients.observe(total.add, scale=float(batch_size), into=total.into):
                yield
            if total.layers != len(self.weights):
                raise RuntimeError(
                    f"{total.layers} of {len(self.weights)} LoRA layers saw a backward pass; the signal would be "
                    "incomplete"
                )
            signals = total.signals()
        self._rows.extend(map(int, rows))
        self._row_steps.extend([len(self._steps)] * len(rows))
        for name, own in signals.state_dict().items():
            self._signals[name].append(own)

    def end_step(self, *, learning_rate: float, clip: float) -> None:
        """Close an optimiser step.

        Args:
            learning_rate: The step's learning rate.
            clip: The factor that clipping applied; 1 without.
        """
        self._steps.append((learning_rate, clip, self._batch_size, max(self._block, 0)))

    def remove(self) -> None:
        """Takes the hooks off the model."""
        self.gradients.remove()

    def result(self) -> tuple[Observations, Steps]:
        """Return everything recorded so far, on the CPU in float64.

        Returns:
            The signals of every draw, and the steps.
        """
        return self._observations(self._column("effect"), self._column("alignment")), self._closed_steps()

    def take_result(self) -> tuple[Observations, Steps, NDArray[np.float64], NDArray[np.float64]]:
        """Return what `result` and `products` do, and forget it: no signal is held twice. Directions stay."""
        effect, product, alignment, norm = (self._found(self._signals[name].take()) for name in SIGNALS)
        observations, steps = self._observations(effect, alignment), self._closed_steps()
        self._rows, self._row_steps, self._steps = array("q"), array("q"), []
        return observations, steps, product, norm

    def products(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return plain products and gradient norms of each draw, in the order of the observations.

        Returns:
            The products [n, targets] and the norms [n].
        """
        return self._column("product"), self._column("norm")

    def state_dict(self) -> dict[str, Any]:
        """All that it has recorded and goes by, between two steps: tensors, numbers and None, by name."""
        return {
            "in_force": None if self._active is None else self._active.state_dict(),
            "learned": None if self._learned is None else self._learned.state_dict(),
            "block": self._block,
            "batch_size": self._batch_size,
            "steps": torch.tensor(self._steps, dtype=torch.float64).reshape(-1, 4),
            "item_alignment": {
                str(probe): torch.as_tensor(np.stack(refreshes))
                for probe, refreshes in enumerate(zip(*self.item_alignment, strict=True))
            },
            "row": torch.as_tensor(np.array(self._rows, dtype=np.int64)),
            "step": torch.as_tensor(np.array(self._row_steps, dtype=np.int64)),
            "signals": {name: own.whole() for name, own in self._signals.items()} if self._rows else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave, on this recorder's device."""
        self._learned = self._active = None
        if state["learned"] is not None:
            device = next(iter(self.weights.values())).device
            self._learned = self._layer_weights(state["learned"]["sum"].to(device))
            self._learned.load_state_dict(state["learned"])
            self._active = ActiveDirections.restored(self.directions, state["in_force"], self._learned, self.weights)
        self._block, self._batch_size = state["block"], state["batch_size"]
        self._steps = [(rate, clip, int(size), int(block)) for rate, clip, size, block in state["steps"].tolist()]
        probes = [state["item_alignment"][str(probe)].numpy() for probe in range(len(state["item_alignment"]))]
        self.item_alignment = [list(own) for own in zip(*probes, strict=True)]
        self._rows, self._row_steps = (array("q", state[name].numpy().tobytes()) for name in ("row", "step"))
        signals = state["signals"] or dict.fromkeys(SIGNALS)
        self._signals = {name: AppendedRows(signals[name]) for name in SIGNALS}

    def _layer_weights(self, like: Tensor) -> LayerWeights:
        sizes = [weight.numel() for name, weight in self.weights.items() if is_aligned(name)]
        return LayerWeights(self.directions, like.new_tensor(sizes))

    def _column(self, name: str) -> NDArray[np.float64]:
        return self._found(self._signals[name].whole()).numpy().astype(np.float64)

    @staticmethod
    def _found(column: T | None) -> T:
        if column is None:
            raise RuntimeError("nothing was recorded: no batch ran inside Recorder.batch")
        return column

    def _observations(self, effect: NDArray[np.float64], alignment: NDArray[np.float64]) -> Observations:
        row, step = (np.array(own, dtype=np.int64) for own in (self._rows, self._row_steps))
        return Observations(row, step, effect, alignment)

    def _closed_steps(self) -> Steps:
        table = np.array(self._steps, dtype=np.float64).reshape(-1, 4)
        return Steps(table[:, 0], table[:, 1], table[:, 2].astype(np.int64), table[:, 3].astype(np.int64))


class _Signals:
    """Holds the signals of one micro-batch, on the device."""

    def __init__(self, effect: Tensor, product: Tensor, alignment: Tensor, norm: Tensor) -> None:
        self.effect, self.product, self.alignment, self.norm = effect, product, alignment, norm

    def state_dict(self) -> dict[str, Tensor]:
        """By name."""
        return {"effect": self.effect, "product": self.product, "alignment": self.alignment, "norm": self.norm}

    @classmethod
    def missing(cls, samples: int, directions: Directions) -> "_Signals":
        targets = torch.full((samples, directions.targets), torch.nan)
        return cls(
            targets, targets, torch.full((samples, len(directions)), torch.nan), torch.full((samples,), torch.nan)
        )


class _Contraction:
    """Contracts per-sample gradients with the directions, a stack of layers at a time; no gradient outlives its stack.

    A stack only leaves numbers behind, and what is made of them is made for all layers at once.
    """

    def __init__(self, active: ActiveDirections, preconditioner: Preconditioner, samples: int) -> None:
        self._active = active
        self._preconditioner = preconditioner
        self._samples = samples
        self._gradients: dict[Stack, tuple[Tensor, tuple[Tensor, ...]]] = {}
        """[samples, layers, numel] of each stack that is being filled, and each layer's part of it."""
        self._missing = {stack: len(stack.names) for stack in active.stacks}
        """Layers of each stack without a gradient yet."""
        self._effect: list[Tensor] = []
        self._product: list[Tensor] = []
        self._norm: list[Tensor] = []
        self._projected: dict[Stack, Tensor] = {}
        """<P D, P g> in each layer, [layers, samples, D]."""
        self._aligned_square: dict[Stack, Tensor] = {}
        """|P g|^2 in each layer, [layers, samples]."""
        self.layers = 0

    def into(self, name: str, samples: int) -> Tensor:
        """Where the layer's gradients belong, [samples, numel]."""
        if samples != self._samples:
            raise RuntimeError(
                f"{name} saw a batch of {samples} for {self._samples} rows; leave layers that do not run on each "
                "sample, such as the head, out of target_modules"
            )
        stack, layer = self._active.place[name]
        if stack not in self._gradients:
            whole = self._active.norm.new_empty(samples, len(stack.names), stack.numel)
            self._gradients[stack] = whole, whole.unbind(1)
        return self._gradients[stack][1][layer]

    def add(self, name: str, _gradients: Tensor) -> None:
        """The layer's gradients lie where they belong. No synchronisation."""
        self.layers += 1
        stack, _ = self._active.place[name]
        self._missing[stack] -= 1
        if not self._missing[stack]:
            self._contract(stack, self._gradients.pop(stack)[0])

    def _contract(self, stack: Stack, gradients: Tensor) -> None:
        active = self._active
        targets = active.stack_targets[stack]
        self._product.append(stack.contracted(gradients, targets))
        self._effect.append(stack.contracted(gradients, targets * stack.stacked(self._preconditioner)))
        self._norm.append(torch.linalg.vector_norm(gradients, dim=2))
        if stack in active.stack_aligned:
            self._projected[stack] = stack.contracted(gradients, active.stack_aligned[stack])
            square = gradients.square_()
            self._aligned_square[stack] = stack.contracted(square, active.stack_square[stack])[:, :, 0]

    def signals(self) -> _Signals:
        """The alignment of a zero gradient is zero."""
        active = self._active
        tiny = torch.finfo(active.norm.dtype).tiny
        projected = torch.cat([self._projected[stack] for stack in active.stack_aligned])[active.order]
        aligned_square = torch.cat([self._aligned_square[stack] for stack in active.stack_aligned])[active.order]
        scale = aligned_square.sqrt()[:, :, None] * active.norms[:, None, active.unwanted]
        inner = (projected * active.weights[:, None, :]).sum(0)
        norm = ((aligned_square.T @ active.weights).sqrt() * active.norm).clamp_min(tiny)
        signals = _Signals(
            torch.cat(self._effect).sum(0),
            torch.cat(self._product).sum(0),
            inner / norm,
            torch.linalg.vector_norm(torch.cat(self._norm, dim=1), dim=1),
        )
        # Last: a pass that runs out of memory before is repeated, and must not be noted twice.
        active.learned.note(projected[:, :, active.unwanted] / scale.clamp_min(tiny))
        return signals
