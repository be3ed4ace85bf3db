"""The gradient of the probe loss, taken so that the training run does not notice."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; modes and random states of CPU and GPUs as before after it.

    A drawn dropout mask would otherwise shift every later mask of the run, and its weights with them.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, training in modes:
            module.training = training


def probe_gradient(
    model: nn.Module, weights: Mapping[str, Tensor], losses: Sequence[Callable[[], Tensor]]
) -> tuple[float, dict[str, Tensor]]:
    """Value and gradient of the mean probe loss Q at the model's present weights.

    losses: each call runs one chunk and gives its share of Q (a scalar; the shares add up to Q), so that memory is
    bounded by a chunk. Gradients are [numel] per weight, in float32 at least. `.grad` is never touched.
    """
    names = list(weights)
    totals = {name: torch.zeros_like(weights[name], dtype=_at_least_float32(weights[name])).flatten() for name in names}
    value = 0.0
    with undisturbed(model), torch.enable_grad():
        for share in losses:
            loss = share()
            value += float(loss.detach())
            gradients = torch.autograd.grad(loss, [weights[name] for name in names])
            for name, gradient in zip(names, gradients, strict=True):
                totals[name] += gradient.to(totals[name].dtype).flatten()
    return value, totals


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
