"""A forward and backward pass that nothing comes of, to see what one takes of the device's memory."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.influence.capture.recorder import Recorder
from worker.training.batches import collate, forward
from worker.training.device_memory import DeviceMemory
from worker.training.encoded_samples import EncodedSamples
from worker.training.measurement import EncodedProbe
from worker.training.passes import Passes
from worker.training.representation import turns_of
from worker.training.token_budget import PassCost, Single, TokenBudget
from worker.training.tokenization import TokenizedSample


def budget_of(
    model: Any,
    weights: Sequence[Tensor],
    samples: EncodedSamples,
    rows: NDArray[np.int64],
    probes: Sequence[EncodedProbe],
    memory: DeviceMemory,
    *,
    recorder: Recorder | None,
    pad: int,
    device: torch.device,
) -> TokenBudget:
    """Find out what a pass takes, and that the longest sample and the longest probe item fit alone.

    Args:
        model: As it is trained.
        weights: That are trained.
        samples: Of the dataset.
        rows: Of those that are trained on.
        probes: That are measured.
        memory: Of the device.
        recorder: Of the run; None: it has none.
        pad: Id that pads.
        device: Of the model.

    Raises:
        TrainingError: One of them does not fit.
    """
    row = int(rows[np.argmax(samples.lengths()[rows])])
    name = f"Row {row}"
    cost = pass_cost(model, weights, samples[row], memory, recorder=recorder, name=name, pad=pad, device=device)
    moments = 2 * cost.gradients
    held = recorder.held_bytes() if recorder else 0
    singles = [Single(name, samples.length(row), cost.gradients + moments + held)]
    items = [
        (len(item.ids), f"Item {place} of probe {number}")
        for number, probe in enumerate(probes, 1)
        for side in probe.sides
        for place, item in enumerate(side, 1)
    ]
    if items and recorder:
        length, name = max(items)
        singles.append(Single(name, length, moments + recorder.measuring_bytes()))
    budget = TokenBudget(cost, memory.free)
    budget.check(singles)
    return budget


def pass_cost(
    model: Any,
    weights: Sequence[Tensor],
    sample: TokenizedSample,
    memory: DeviceMemory,
    *,
    recorder: Recorder | None,
    name: str,
    pad: int,
    device: torch.device,
) -> PassCost:
    """Run the sample alone, as a training pass would be run; no gradient is kept, and random states stay.

    Args:
        model: As it is trained.
        weights: That are trained.
        sample: The longest one: what a token takes may grow with the length, and never shrinks.
        memory: Of the device.
        recorder: Forms each sample's gradients meanwhile, as it will; None: the run has none.
        name: Of the sample, as a sentence begins.
        pad: Id that pads.
        device: Of the model.

    Raises:
        TrainingError: The sample does not fit.
    """

    def run(_positions: list[int]) -> None:
        watched = recorder.gradients.observe(lambda _layer, _gradients: None, scale=1.0) if recorder else nullcontext()
        with watched:
            batch = collate([sample], pad=pad, device=device)
            outputs = forward(model, batch, turn=turns_of(batch.answered) if recorder else None)
            torch.autograd.grad(outputs.losses.sum(), list(weights), allow_unused=True)

    passes = Passes("a training pass", samples=1, device=device)
    length = len(sample.ids)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        taken = memory.peak(lambda: passes.run([length], run, lambda _position: name))
    gradients = sum(weight.numel() * weight.element_size() for weight in weights)
    return PassCost(max(taken - gradients, 1) / length, gradients)
