"""The training loop: AdamW on LoRA, linear warm-up and decay, gradient clipping, and a recorder that only watches."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from service.contract import ErrorCode, MetricEvent, TrainingConfig
from worker.influence.recorder import Recorder
from worker.training.batches import batches, collate, forward, micro_batches
from worker.training.errors import TrainingError
from worker.training.measurement import ByProducts, EncodedProbe, Measurement
from worker.training.samples import Sample

WARM_UP_STEPS = 10
"""Steps whose signals are not used: the second moment is an average over too few gradients to precondition with."""

BETAS = (0.9, 0.999)


@dataclass
class TrainingRun:
    """What a run leaves beside the model's weights."""

    steps: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)
    """Mean sample loss of each optimiser step."""
    measurements: int = 0
    """Times the probe gradients were measured."""
    by_products: ByProducts = field(default_factory=ByProducts)


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


def train(
    model: Any,
    samples: Sequence[Sample],
    config: TrainingConfig,
    *,
    pad: int,
    probes: Sequence[EncodedProbe] = (),
    recorder: Recorder | None = None,
    on_step: Callable[[MetricEvent, int], None] = lambda metric, total: None,
) -> TrainingRun:
    """Trains the LoRA layers of `model` in place on the samples that have an answer.

    probes and recorder belong together: with them the same steps are taken, bit for bit, and every draw is recorded.
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
    measurement = None
    if recorder is not None:
        measurement = Measurement(
            model,
            recorder,
            probes,
            optimizer=optimizer,
            pad=pad,
            device=accelerator.device,
            warm_up=warm_up_of(total),
            total=total,
            planned_tokens=config.epochs * sum(len(samples[row].ids) for row in rows),
        )

    def backward(batch_rows: Sequence[int]) -> torch.Tensor:
        """Gradient of the mean of the rows' losses, in micro-batches; their losses, in the order they ran."""
        losses, ran = [], []
        for part in micro_batches([len(samples[row].ids) for row in batch_rows], config.micro_batch_size):
            part_rows = [batch_rows[position] for position in part]
            batch = collate([samples[row] for row in part_rows], pad=pad, device=accelerator.device)
            with measurement.batch(part_rows, len(batch_rows)) if measurement else nullcontext():
                outputs = forward(model, batch)
                accelerator.backward(outputs.losses.sum() / len(batch_rows))
            if measurement:
                measurement.outputs(outputs)
            losses.append(outputs.losses.detach())
            ran += part_rows
        found = torch.cat(losses)
        _check_finite(found, ran, run.steps)
        return found

    model.train()
    for step, batch_rows in enumerate(batches(rows, config)):
        probe_loss = measurement.begin_step(step) if measurement else None
        rate = peak * _schedule(step, total, config.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = backward(batch_rows)
        norm = float(torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if measurement:
            measurement.end_step(rate, min(1.0, config.max_grad_norm / (norm + 1e-6)))
        run.losses.append(float(losses.mean()))
        run.tokens += sum(len(samples[row].ids) for row in batch_rows)
        run.steps += 1
        on_step(
            MetricEvent(step=step + 1, loss=run.losses[-1], learning_rate=rate, grad_norm=norm, probe_loss=probe_loss),
            total,
        )
    if measurement:
        late = measurement.unseen(rows)
        measurement.finish(run.steps, late=bool(late))
        for start in range(0, len(late), config.batch_size):
            backward(late[start : start + config.batch_size])
            optimizer.zero_grad(set_to_none=True)
            # No step was taken: it has no weight in mu, and its signals count for the alignment alone.
            measurement.end_step(0.0, 1.0)
        run.by_products = measurement.by_products
        run.measurements = measurement.measurements
    return run


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
