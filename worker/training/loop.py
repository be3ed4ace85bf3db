"""The training loop: AdamW on LoRA, linear warm-up and decay, gradient clipping, and a recorder that only watches."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from service.contract import ErrorCode, MetricEvent, TrainingConfig
from worker.influence.preconditioner import adamw_preconditioner
from worker.influence.probe import probe_gradient
from worker.influence.recorder import Recorder
from worker.training.errors import TrainingError
from worker.training.samples import Batch, Sample, collate, sample_losses

REFRESH_STEPS = 10
"""Optimiser steps with one probe gradient."""

WARM_UP_STEPS = 10
"""Steps whose signals are not used: the second moment is an average over too few gradients to precondition with."""

PROBE_CHUNK = 8
"""Probe items in one forward pass."""

BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Probe:
    """The encoded probe: unwanted answers and, where every item has one, reference answers."""

    unwanted: Sequence[Sample]
    reference: Sequence[Sample] = ()

    @property
    def sides(self) -> list[Sequence[Sample]]:
        """One entry a direction."""
        return [self.unwanted, self.reference] if self.reference else [self.unwanted]


@dataclass
class TrainingRun:
    """What a run leaves beside the model's weights."""

    steps: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)
    """Mean sample loss of each optimiser step."""
    probe_losses: list[float] = field(default_factory=list)
    """Of the unwanted answers, at each refresh and at the end."""


def learning_rate_of(config: TrainingConfig, hidden_size: int) -> float:
    """What was asked for, or 1e-3 (576 / hidden_size)^0.8.

    The power law joins the rate that serves the 135M demo model (docs/benchmarks.md) with the 2e-4 that is usual for
    LoRA on models of 7 to 8 billion parameters.
    """
    return config.learning_rate or 1e-3 * (576 / hidden_size) ** 0.8


def steps_of(samples: int, config: TrainingConfig) -> int:
    """Optimiser steps of a whole run."""
    return config.epochs * math.ceil(samples / config.batch_size)


def warm_up_of(steps: int) -> int:
    """Steps whose signals are not used; short runs keep at least seven eighths of theirs."""
    return min(WARM_UP_STEPS, math.ceil(steps / 8))


def batches(rows: Sequence[int], config: TrainingConfig) -> Iterator[list[int]]:
    """The rows of every step, in order: each epoch a fresh permutation drawn from (seed, epoch)."""
    for epoch in range(config.epochs):
        order = np.random.default_rng([config.seed, epoch]).permutation(np.asarray(rows))
        for start in range(0, len(order), config.batch_size):
            yield order[start : start + config.batch_size].tolist()


def train(
    model: Any,
    samples: Sequence[Sample],
    config: TrainingConfig,
    *,
    pad: int,
    probe: Probe | None = None,
    recorder: Recorder | None = None,
    on_step: Callable[[MetricEvent, int], None] = lambda metric, total: None,
) -> TrainingRun:
    """Trains the LoRA layers of `model` in place on the samples that have an answer.

    probe and recorder belong together: with them the same steps are taken, bit for bit, and every draw is recorded.
    Draws of the warm-up are recorded without a signal; samples that were drawn only there are scored once more at
    the end, without a step. Raises TrainingError when the loss stops being finite; its message names the rows.
    """
    accelerator = Accelerator()
    model = accelerator.prepare_model(model)
    weights = [p for p in model.parameters() if p.requires_grad]
    peak = learning_rate_of(config, model.config.hidden_size)
    optimizer = torch.optim.AdamW(weights, lr=peak, betas=BETAS, weight_decay=config.weight_decay)
    rows = [row for row, sample in enumerate(samples) if sample.has_answer]
    if not rows:
        raise TrainingError(
            ErrorCode.NOTHING_TO_TRAIN_ON,
            f"no sample has an answer within its first {config.max_length} tokens",
            "raise training.max_length",
        )
    total = steps_of(len(rows), config)
    run = TrainingRun()
    watch = _Watch(model, recorder, probe, optimizer, pad, accelerator.device) if recorder and probe else None

    def backward(batch_rows: Sequence[int]) -> torch.Tensor:
        """Gradient of the mean of the rows' losses, in micro-batches; their losses [len(batch_rows)]."""
        size = config.micro_batch_size or config.batch_size
        losses = []
        for start in range(0, len(batch_rows), size):
            part = batch_rows[start : start + size]
            batch = collate([samples[row] for row in part], pad=pad, device=accelerator.device)
            context = watch.batch(part, len(batch_rows)) if watch else nullcontext()
            with context:
                loss = sample_losses(model, batch)
                accelerator.backward(loss.sum() / len(batch_rows))
            losses.append(loss.detach())
        return torch.cat(losses)

    model.train()
    for step, batch_rows in enumerate(batches(rows, config)):
        if watch and step % REFRESH_STEPS == 0:
            run.probe_losses.append(watch.refresh())
        if watch:
            watch.begin_step(recorded=step >= warm_up_of(total))
        rate = peak * _schedule(step, total, config.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = backward(batch_rows)
        _check_finite(losses, batch_rows, step)
        norm = float(torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if watch:
            watch.end_step(rate, min(1.0, config.max_grad_norm / (norm + 1e-6)))
        run.losses.append(float(losses.mean()))
        run.tokens += sum(len(samples[row].ids) for row in batch_rows)
        run.steps += 1
        on_step(
            MetricEvent(
                step=step + 1,
                loss=run.losses[-1],
                learning_rate=rate,
                grad_norm=norm,
                probe_loss=run.probe_losses[-1] if watch and step % REFRESH_STEPS == 0 else None,
            ),
            total,
        )
    if watch:
        run.probe_losses.append(watch.refresh())
        late = watch.unseen(rows)
        for start in range(0, len(late), config.batch_size):
            watch.begin_step(recorded=True)
            backward(late[start : start + config.batch_size])
            optimizer.zero_grad(set_to_none=True)
            # No step was taken: it has no weight in mu, and its signals count for the alignment alone.
            watch.end_step(0.0, 1.0)
    return run


class _Watch:
    """Keeps the recorder supplied with probe gradients and preconditioners."""

    def __init__(
        self,
        model: Any,
        recorder: Recorder,
        probe: Probe,
        optimizer: torch.optim.AdamW,
        pad: int,
        device: torch.device,
    ) -> None:
        self._model, self._recorder, self._optimizer = model, recorder, optimizer
        self._sides = [
            [collate(side[i : i + PROBE_CHUNK], pad=pad, device=device) for i in range(0, len(side), PROBE_CHUNK)]
            for side in probe.sides
        ]
        self._counts = [len(side) for side in probe.sides]
        self._observed: set[int] = set()
        self._preconditioner: dict[str, torch.Tensor] | None = None

    def refresh(self) -> float:
        """New probe gradients at the present weights; the loss of the unwanted answers."""
        values, gradients = [], []
        for chunks, count in zip(self._sides, self._counts, strict=True):
            losses = [partial(self._share, chunk, count) for chunk in chunks]
            value, gradient = probe_gradient(self._model, self._recorder.weights, losses)
            values.append(value)
            gradients.append(gradient)
        self._recorder.set_directions(gradients)
        return values[0]

    def _share(self, chunk: Batch, count: int) -> torch.Tensor:
        return sample_losses(self._model, chunk).sum() / count

    def begin_step(self, *, recorded: bool) -> None:
        """Opens a step; unless it is recorded, its draws get no signal."""
        self._preconditioner = adamw_preconditioner(self._optimizer, self._recorder.weights) if recorded else None

    def batch(self, rows: Sequence[int], batch_size: int) -> Any:
        """Context in which forward and backward pass of `rows` are recorded."""
        if self._preconditioner is not None:
            self._observed.update(rows)
        return self._recorder.batch(rows, self._preconditioner, batch_size=batch_size)

    def end_step(self, learning_rate: float, clip: float) -> None:
        """Closes a step."""
        self._recorder.end_step(learning_rate=learning_rate, clip=clip)

    def unseen(self, rows: Sequence[int]) -> list[int]:
        """Rows without a signal so far."""
        return [row for row in rows if row not in self._observed]


def _schedule(step: int, total: int, warmup_ratio: float) -> float:
    warm = max(1, round(total * warmup_ratio))
    if step < warm:
        return (step + 1) / warm
    return (total - step) / max(1, total - warm)


def _check_finite(losses: torch.Tensor, rows: Sequence[int], step: int) -> None:
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        bad = [row for row, ok in zip(rows, finite.tolist(), strict=True) if not ok]
        raise TrainingError(
            ErrorCode.LOSS_NOT_FINITE,
            f"the loss was not finite at step {step + 1}, rows {', '.join(map(str, bad[:10]))}",
            "lower training.learning_rate, or look at these rows",
        )
