"""How much of a sample's alignment each of its tokens makes up, at the end of a run."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.influence.capture.directional_derivatives import derivatives_along
from worker.influence.capture.probe_gradients import undisturbed
from worker.training.batches import TokenBatch, collate, forward
from worker.training.passes import Passes
from worker.training.tokenization import TokenizedSample

Floats = NDArray[np.float64]

AT_ONCE = 8
"""Samples of one pass, at most."""

WHAT = "a pass that splits alignments over tokens"
"""What notices and errors about memory call this pass."""

AGREEMENT = 0.1
"""How far the sum over a sample's tokens may be from what a backward pass gives, beside the size of its parts. Half
precision rounds each of many terms by 1 in 250; an operation that hides its want of a forward mode is off by more."""


class NotDifferentiableError(Exception):
    """The forward mode does not give what a backward pass gives: the model has an operation that hides it."""


def token_values(
    model: nn.Module,
    direction: Mapping[str, Tensor],
    samples: Sequence[TokenizedSample],
    *,
    pad: int,
    device: torch.device,
    passes: Passes | None = None,
    on_sample: Callable[[int], None] = lambda done: None,
) -> list[Floats]:
    """Split each sample's alignment over its tokens with loss.

    With u the recorder's unit direction and l_j the loss of token j of n, the value of the token is <u, grad l_j> / n.
    A sample's loss is the mean over its tokens, so the values add up to <u, g>, which is alignment times |g|: their
    shares of the sum are those of the alignment. All are derivatives along u and come from one forward pass. The
    model is in evaluation mode meanwhile; its weights, modes and random states are as before afterwards.

    Args:
        model: As it was trained.
        direction: u by layer, as `Recorder.unit_direction` gives it.
        samples: Each with a token that has loss.
        pad: Id that pads.
        device: Where the model is.
        passes: Runs the samples, at most AT_ONCE of them at a time; None: passes of AT_ONCE.
        on_sample: Is told how many are done.

    Returns:
        Of each sample, one value for each token with loss, in their order; NaN where it is not finite.

    Raises:
        NotDifferentiableError: The sum over the first sample's tokens is not the derivative of its loss.
        RuntimeError: An operation of the model has no forward mode.
        TrainingError: The memory does not suffice for one sample alone.
    """
    passes = passes or Passes(WHAT, samples=AT_ONCE, device=device)
    along = {f"{name}.weight": own for name, own in direction.items()}

    def run(part: Sequence[TokenizedSample], positions: list[int]) -> list[Floats]:
        return _values(model, along, [part[position] for position in positions], pad=pad, device=device)

    def name(start: int, position: int) -> str:
        return f"Sample {start + position + 1} of those that rank first"

    found: list[Floats] = [np.empty(0)] * len(samples)
    with undisturbed(model):
        for start in range(0, len(samples), AT_ONCE):
            part = samples[start : start + AT_ONCE]
            lengths = [len(sample.ids) for sample in part]
            for positions, values in passes.run(lengths, partial(run, part), partial(name, start)):
                for position, own in zip(positions, values, strict=True):
                    found[start + position] = own
            if not start:
                _check(model, along, samples[0], found[0], pad=pad, device=device)
            on_sample(min(start + AT_ONCE, len(samples)))
    return found


class _TokenLosses(nn.Module):
    """The losses of all tokens of a batch as a module's output, so that its weights can be replaced from outside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TokenBatch) -> Tensor:
        return forward(self.model, batch).tokens


def _values(
    model: nn.Module,
    along: Mapping[str, Tensor],
    samples: Sequence[TokenizedSample],
    *,
    pad: int,
    device: torch.device,
) -> list[Floats]:
    batch = collate(samples, pad=pad, device=device)
    direction = {f"model.{name}": own for name, own in along.items()}
    found = derivatives_along(_TokenLosses(model), direction, batch).numpy()
    counts = [sample.count_with_loss for sample in samples]
    return [own / len(own) for own in np.split(found, np.cumsum(counts)[:-1])]


def _check(
    model: nn.Module,
    along: Mapping[str, Tensor],
    sample: TokenizedSample,
    values: Floats,
    *,
    pad: int,
    device: torch.device,
) -> None:
    weights = dict(model.named_parameters())
    names = list(along)
    with torch.enable_grad():
        loss = forward(model, collate([sample], pad=pad, device=device)).losses.sum()
        gradients = torch.autograd.grad(loss, [weights[name] for name in names])
    parts = [
        float((own.flatten().cpu().double() * gradient.flatten().cpu().double()).sum())
        for own, gradient in zip(along.values(), gradients, strict=True)
    ]
    size = max(sum(map(abs, parts)), float(np.abs(values).sum()))
    difference = abs(math.fsum(parts) - float(values.sum()))
    if math.isfinite(size) and difference > AGREEMENT * size:
        raise NotDifferentiableError
