"""The training loop: AdamW on LoRA, linear warm-up and decay, gradient clipping, and a recorder that only watches."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from service.contract.failure import ErrorCode
from service.contract.protocol import MetricEvent, NoticeEvent
from service.contract.spec import TrainingConfig
from worker.influence.capture.recorder import Recorder
from worker.training.activation_checkpointing import checkpoint_activations
from worker.training.batches import batches, collate, forward
from worker.training.checkpointing.manager import Checkpoints
from worker.training.checkpointing.state import TrainingRun, TrainingState
from worker.training.device_memory import DeviceMemory, memory_of
from worker.training.dry_run import budget_of
from worker.training.encoded_samples import EncodedSamples
from worker.training.errors import TrainingError
from worker.training.measurement import EncodedProbe, Measurement
from worker.training.passes import Passes
from worker.training.refresh_schedule import warm_up_of
from worker.training.representation import turns_of
from worker.training.tokenization import TokenizedSample

BETAS = (0.9, 0.999)
"""The usual decays of Adam's two means."""


def learning_rate_of(config: TrainingConfig, hidden_size: int) -> float:
    """Return the learning rate that was asked for, or 1e-3 (576 / hidden_size)^0.8.

    The power law joins the rate that serves the 135M demo model (docs/benchmarks.md) with the 2e-4 that is usual for
    LoRA on models of 7 to 8 billion parameters.

    Args:
        config: Says what was asked for.
        hidden_size: The width of the model.
    """
    return config.learning_rate or 1e-3 * (576 / hidden_size) ** 0.8


def steps_of(samples: int, config: TrainingConfig) -> int:
    """Count the optimiser steps of a whole run.

    Args:
        samples: Samples that are trained on.
        config: Says how long and in which batches.
    """
    return config.epochs * math.ceil(samples / config.batch_size)


def train(
    model: Any,
    samples: EncodedSamples | Sequence[TokenizedSample],
    config: TrainingConfig,
    *,
    pad: int,
    probes: Sequence[EncodedProbe] = (),
    recorder: Recorder | None = None,
    on_step: Callable[[MetricEvent, int], None] = lambda metric, total: None,
    tell: Callable[[NoticeEvent], None] = lambda notice: None,
    checkpoints: Checkpoints | None = None,
    memory: DeviceMemory | None = None,
    spool: Path | None = None,
) -> TrainingRun:
    """Trains the LoRA layers of `model` in place on the samples that have a turn with loss.

    probes and recorder belong together: with them the same steps are taken, bit for bit, and every draw is recorded.
    Draws of the warm-up are recorded without a signal; samples that were drawn only there are scored once more at
    the end, without a step. With checkpoints the run goes on from the newest, and leaves others; it takes the same
    steps and records the same, bit for bit, as one that was not interrupted. Where memory runs out, the pass is
    repeated in smaller ones, which `tell` is told. Raises TrainingError when the loss stops being finite; its message
    names the rows. Raises TrainingError when one sample alone does not fit into memory, before the first step where
    that can be known. Raises StoppedError when it was asked to stop for later.

    memory: of the device, by which passes are planned; None: read where it is a GPU, else passes are not planned.
    spool: a folder for by-products that are too much for the memory; None: where temporary files are.
    """
    accelerator = Accelerator()
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    model = accelerator.prepare_model(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    weights = list(trained.values())
    peak = learning_rate_of(config, model.config.hidden_size)
    optimizer = torch.optim.AdamW(weights, lr=peak, betas=BETAS, weight_decay=config.weight_decay)
    samples = EncodedSamples.of(samples)
    rows = np.flatnonzero(samples.has_loss())
    if not len(rows):
        raise TrainingError(
            ErrorCode.NOTHING_TO_TRAIN_ON,
            f"No sample has a turn to learn from within its first {config.max_length} tokens.",
            "Raise training.max_length.",
        )
    total = steps_of(len(rows), config)
    run = TrainingRun()
    memory = memory or memory_of(accelerator.device)
    model.train()
    budget = None
    if memory is not None:
        budget = budget_of(
            model, weights, samples, rows, probes, memory, recorder=recorder, pad=pad, device=accelerator.device
        )
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
            planned_tokens=config.epochs * int(samples.lengths()[rows].sum()),
            micro_batch_size=config.micro_batch_size,
            budget=budget,
            tell=tell,
            spool=spool,
        )
    passes = Passes("a training pass", samples=config.micro_batch_size, device=accelerator.device, tell=tell)

    def plan() -> None:
        if budget is not None:
            # The step's own gradients, and the optimiser's moments as long as there are none.
            passes.plan(budget.tokens(reserve=budget.cost.gradients * (1 if optimizer.state else 3)))

    def backward(batch_rows: Sequence[int]) -> torch.Tensor:
        """Gradient of the mean of the rows' losses, in micro-batches; their losses, in the order they ran."""

        def run_pass(part: list[int]) -> torch.Tensor:
            part_rows = [batch_rows[position] for position in part]
            with measurement.batch(part_rows, len(batch_rows)) if measurement else nullcontext():
                batch = collate([samples[row] for row in part_rows], pad=pad, device=accelerator.device)
                turn = turns_of(batch.answered) if measurement else None
                outputs = forward(model, batch, turn=turn)
                loss = outputs.losses.sum() / len(batch_rows)
                # Not into .grad: a pass that runs out of memory halfway is repeated and must leave nothing there.
                gradients = torch.autograd.grad(loss, weights, allow_unused=True)
                if measurement and turn is not None:
                    measurement.outputs(outputs, turn)
            _accumulate(weights, gradients)
            return outputs.losses.detach()

        lengths = [samples.length(row) for row in batch_rows]
        ran = passes.run(lengths, run_pass, lambda position: f"Row {batch_rows[position]}")
        found = torch.cat([losses for _, losses in ran])
        _check_finite(found, [batch_rows[position] for part, _ in ran for position in part], run.steps)
        return found

    state = TrainingState(trained, optimizer, measurement, run, accelerator.device)
    if checkpoints:
        checkpoints.resume(state)
    plan()
    if budget is not None and passes.tokens is not None:
        tell(budget.notice(passes.tokens))
    for step, batch_rows in enumerate(islice(batches(rows, config), run.steps, None), run.steps):
        probe_loss = measurement.begin_step(step) if measurement else None
        if probe_loss is not None:
            plan()  # A measurement leaves directions.
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
        run.tokens += sum(samples.length(row) for row in batch_rows)
        run.steps += 1
        on_step(
            MetricEvent(step=step + 1, loss=run.losses[-1], learning_rate=rate, grad_norm=norm, probe_loss=probe_loss),
            total,
        )
        if checkpoints:
            checkpoints.boundary(state)
    if measurement:
        if run.late is None:
            run.late = measurement.unseen(rows.tolist())
            measurement.finish(run.steps, late=bool(run.late))
            plan()
        while run.late:
            backward(run.late[: config.batch_size])
            optimizer.zero_grad(set_to_none=True)
            # No step was taken: it has no weight in mu, and its signals count for the alignment alone.
            measurement.end_step(0.0, 1.0)
            run.late = run.late[config.batch_size :]
            run.late_batches += 1
            if checkpoints:
                checkpoints.boundary(state)
        run.by_products = measurement.by_products
        run.measurements = measurement.measurements
    run.seconds = state.seconds()
    return run


def _schedule(step: int, total: int, warmup_ratio: float) -> float:
    warm = max(1, round(total * warmup_ratio))
    if step < warm:
        return (step + 1) / warm
    return (total - step) / max(1, total - warm)


def _accumulate(weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]) -> None:
    """Adds to .grad, as a backward pass does, and takes no memory for it."""
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is None:
            continue
        if weight.grad is None:
            weight.grad = gradient
        else:
            weight.grad += gradient


def _check_finite(losses: torch.Tensor, rows: Sequence[int], step: int) -> None:
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        bad = [row for row, ok in zip(rows, finite.tolist(), strict=True) if not ok]
        raise TrainingError(
            ErrorCode.LOSS_NOT_FINITE,
            f"The loss was not finite at step {step + 1}, in rows {', '.join(map(str, bad[:10]))}.",
            "Lower training.learning_rate, or look at these rows."
            if step
            else "Nothing was learned yet, so the learning rate is not the reason: check that all the model's weights "
            "are finite, try training.dtype float32, and look at these rows.",
        )
