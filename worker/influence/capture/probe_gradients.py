"""The gradients of the probe, taken so that the training run does not notice."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.influence.capture.per_sample_gradients import PerSampleGradients

Chunk = tuple[Sequence[int], Callable[[], Tensor]]
"""Numbers of some items, and a call that runs them and gives the loss of each, [len(numbers)]."""


@dataclass(frozen=True)
class ProbeGradients:
    """Losses and gradients of one side of a probe at the model's present weights."""

    losses: Tensor
    """[items], on the CPU."""
    mean: dict[str, Tensor]
    """Gradient of the mean loss, [numel] a layer, all layers."""
    items: dict[str, Tensor]
    """Gradient of each item's loss, [items, numel] a layer, of the layers asked for."""


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


def probe_losses(model: nn.Module, chunks: Sequence[Chunk]) -> Tensor:
    """The loss of each item, [items] on the CPU, without gradients."""
    with undisturbed(model), torch.no_grad():
        return in_order([(numbers, run()) for numbers, run in chunks]).cpu()


def probe_gradients(
    model: nn.Module,
    gradients: PerSampleGradients,
    weights: Mapping[str, Tensor],
    chunks: Sequence[Chunk],
    *,
    items_of: Callable[[str], bool],
) -> ProbeGradients:
    """Losses, mean gradient and each item's gradients in one pass over the chunks.

    gradients: the hooks on the layers that `weights` names; items_of: which layers' item gradients are kept. Memory
    beyond the result is bounded by a chunk. Gradients are in float32 at least. `.grad` is never touched.
    """
    names = list(weights)
    count = sum(len(numbers) for numbers, _ in chunks)
    mean = {name: torch.zeros_like(weights[name], dtype=_at_least_float32(weights[name])).flatten() for name in names}
    items = {
        name: torch.zeros(count, total.numel(), dtype=total.dtype, device=total.device)
        for name, total in mean.items()
        if items_of(name)
    }
    device = next(iter(mean.values())).device
    losses = []
    with undisturbed(model), torch.enable_grad():
        for numbers, run in chunks:
            # On the device at once: as an index of the processor's every layer would copy it there, and wait.
            position = torch.as_tensor(list(numbers), device=device)

            def keep(name: str, gradient: Tensor, position: Tensor = position) -> None:
                if name in items:
                    items[name][position] = gradient.to(items[name].dtype)

            with gradients.observe(keep, scale=float(count)):
                loss = run()
                found = torch.autograd.grad(loss.sum() / count, [weights[name] for name in names])
            losses.append((numbers, loss.detach()))
            for name, gradient in zip(names, found, strict=True):
                mean[name] += gradient.to(mean[name].dtype).flatten()
    return ProbeGradients(in_order(losses).cpu(), mean, items)


def in_order(parts: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
    """What chunks gave for each of their items, in the items' order; a part is the items' numbers and [items, ...]."""
    numbers = [number for part, _ in parts for number in part]
    values = torch.cat([loss.detach() for _, loss in parts])
    result = torch.empty_like(values)
    result[torch.as_tensor(numbers)] = values
    return result


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
