"""Watches a training run and records, for every sample drawn, what its gradient had to do with the probe."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from worker.influence.gradients import PerSampleGradients
from worker.influence.observations import Observations, Steps

ALIGNED = ".lora_B."
"""Part of the names of the layers that the alignment is taken over."""


class Recorder:
    """Records effect and alignment signals of every sample in the steps of a training loop.

        recorder = Recorder(lora_layers(model), directions=1)
        for rows, batch in batches:
            if refresh_is_due:
                recorder.set_directions([probe_gradient(...)])
            with recorder.batch(rows, preconditioner, batch_size=len(rows)):
                loss.backward()
            ...
            recorder.end_step(learning_rate=..., clip=...)

    With G the direction, g a sample's gradient and P the optimiser's preconditioner:

        effect     s = <G, P g>                          over all layers
        alignment  c = <P G, P g> / (|P G| |P g|)        over the lora_B layers

    The alignment's metric P^2 = 1/v_hat is the inverse diagonal Fisher information as AdamW estimates it, so no few
    coordinates of large gradients decide it. lora_A is left out of it: its gradient passes through lora_B, which
    starts at zero, so it is mostly the noise of the initialisation (docs/statistics.md has the comparison).
    """

    def __init__(self, layers: Mapping[str, nn.Linear], *, directions: int) -> None:
        self.weights: dict[str, Tensor] = {name: layer.weight for name, layer in layers.items()}
        self._k = directions
        self._gradients = PerSampleGradients(layers)
        self._directions: dict[str, Tensor] = {}
        self._block = -1
        self._steps: list[tuple[float, float, int, int]] = []
        self._batch_size = 0
        self._rows: list[NDArrayInt] = []
        self._row_steps: list[NDArrayInt] = []
        self._signals: list[Tensor] = []

    def set_directions(self, gradients: Sequence[Mapping[str, Tensor]]) -> None:
        """Puts new probe gradients in force ([numel] per weight) and begins a new block of steps."""
        if len(gradients) != self._k:
            raise ValueError(f"expected {self._k} directions, got {len(gradients)}")
        self._directions = {name: torch.stack([g[name] for g in gradients]) for name in self.weights}
        self._block += 1

    @contextmanager
    def batch(
        self, rows: Sequence[int], preconditioner: Mapping[str, Tensor] | None, *, batch_size: int
    ) -> Iterator[None]:
        """Forward and backward pass of `rows` in the block are recorded; several micro-batches may make one step.

        The backward pass must go through sum_n loss_n / batch_size. preconditioner: P per weight, [numel]; None before
        the optimiser has one, and the draw is recorded with NaN signals.
        """
        if not self._directions:
            raise RuntimeError("call set_directions before the first batch")
        self._batch_size = batch_size
        self._rows.append(np.asarray(rows, dtype=np.int64))
        self._row_steps.append(np.full(len(rows), len(self._steps), dtype=np.int64))
        if preconditioner is None:
            yield
            self._signals.append(torch.full((2, len(rows), self._k), torch.nan))
            return
        total = _Contraction(self._directions, preconditioner, len(rows))
        with self._gradients.observe(total.add, scale=float(batch_size)):
            yield
        if total.layers != len(self.weights):
            raise RuntimeError(
                f"{total.layers} of {len(self.weights)} LoRA layers saw a backward pass; the signal would be incomplete"
            )
        self._signals.append(total.signals())

    def end_step(self, *, learning_rate: float, clip: float) -> None:
        """Closes an optimiser step: its learning rate and the factor that clipping applied."""
        self._steps.append((learning_rate, clip, self._batch_size, self._block))

    def remove(self) -> None:
        """Takes the hooks off the model."""
        self._gradients.remove()

    def result(self) -> tuple[Observations, Steps]:
        """Everything recorded so far, on the CPU in float64."""
        signals = torch.cat([s.cpu() for s in self._signals], dim=1).double().numpy()
        table = np.array(self._steps, dtype=np.float64).reshape(-1, 4)
        observations = Observations(
            row=np.concatenate(self._rows),
            step=np.concatenate(self._row_steps),
            effect=signals[0],
            alignment=signals[1],
        )
        steps = Steps(table[:, 0], table[:, 1], table[:, 2].astype(np.int64), table[:, 3].astype(np.int64))
        return observations, steps


NDArrayInt = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class _Contraction:
    """Contracts per-sample gradients with the directions layer by layer; nothing of a layer outlives its call."""

    def __init__(self, directions: Mapping[str, Tensor], preconditioner: Mapping[str, Tensor], samples: int) -> None:
        like = next(iter(directions.values()))
        self._directions = directions
        self._preconditioner = preconditioner
        self._effect = like.new_zeros(samples, len(like))
        self._inner = like.new_zeros(samples, len(like))
        self._sample_square = like.new_zeros(samples, 1)
        self._direction_square = like.new_zeros(len(like))
        self.layers = 0

    def add(self, name: str, gradients: Tensor) -> None:
        """gradients: [samples, numel] of one layer."""
        p = self._preconditioner[name]
        weighted = self._directions[name] * p
        self._effect += gradients @ weighted.T
        if ALIGNED in name:
            self._inner += gradients @ (weighted * p).T
            self._sample_square += (gradients.square() @ (p * p))[:, None]
            self._direction_square += weighted.square().sum(1)
        self.layers += 1

    def signals(self) -> Tensor:
        """[2, samples, K]: effect and alignment; the alignment of a zero gradient is zero."""
        norm = (self._sample_square.sqrt() * self._direction_square.sqrt()).clamp_min(
            torch.finfo(self._inner.dtype).tiny
        )
        return torch.stack([self._effect, self._inner / norm])
