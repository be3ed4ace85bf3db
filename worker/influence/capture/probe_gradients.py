"""The gradients of the probe, measured without changing the training run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.influence.capture.layer_stacks import kept_type
from worker.influence.capture.per_sample_gradients import PerSampleGradients

Chunk = tuple[Sequence[int], Callable[[], Tensor]]
"""Numbers of some items, and a function that runs them and returns the loss of each, [len(numbers)]."""


@dataclass(frozen=True)
class ProbeGradients:
    """Losses and gradients of one side of a probe at the model's present weights."""

    losses: Tensor
    """[items], on the CPU."""
    mean: dict[str, Tensor]
    """Gradient of the mean loss, [numel] per layer, for all layers."""
    items: dict[str, Tensor]
    """Gradient of each item's loss, [items, numel] per layer, for the layers asked for; on a GPU rounded to bfloat16 as
    directions are (`kept_type`)."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode within the block, and restore modes and random states of CPU and GPUs after it.

    A dropout mask drawn inside would otherwise shift every later mask of the run, and with it the weights.
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
    """Return the loss of each item, [items] on the CPU, without gradients.

    Args:
        model: The model, which is put in evaluation mode for the time.
        chunks: The items in parts that fit into memory; together they hold each item once.
    """
    with undisturbed(model), torch.no_grad():
        return in_order([(numbers, run()) for numbers, run in chunks]).cpu()


class ProbeGradientSum:
    """Losses, mean gradient and each item's gradients of one side of a probe, collected over several passes.

    Memory beyond the result is bounded by one pass. Sums are in float32 at least. `.grad` is never touched.
    """

    def __init__(
        self,
        gradients: PerSampleGradients,
        weights: Mapping[str, Tensor],
        items: int,
        *,
        items_of: Callable[[str], bool],
    ) -> None:
        """Make room for the result.

        Args:
            gradients: The hooks on the layers that `weights` names.
            weights: The weight of each layer, by name.
            items: Number of items of the side.
            items_of: Whether the item gradients of a layer are kept.
        """
        self._gradients, self._weights, self._count = gradients, weights, items
        self._mean = {
            name: torch.zeros_like(weight, dtype=_at_least_float32(weight)).flatten()
            for name, weight in weights.items()
        }
        self._items = {
            name: torch.zeros(items, total.numel(), dtype=kept_type(total), device=total.device)
            for name, total in self._mean.items()
            if items_of(name)
        }
        self._losses: list[tuple[Sequence[int], Tensor]] = []

    def add(self, numbers: Sequence[int], run: Callable[[], Tensor]) -> None:
        """Add a pass, inside `undisturbed` and with gradients enabled; one that raises can be repeated.

        Args:
            numbers: Numbers of the items in the pass.
            run: Runs them and returns the loss of each, [len(numbers)].
        """
        # On the device from the start: an index in CPU memory would be copied there for every layer, with a wait.
        position = torch.as_tensor(list(numbers), device=next(iter(self._mean.values())).device)

        def keep(name: str, gradient: Tensor) -> None:
            if name in self._items:
                self._items[name][position] = gradient.to(self._items[name].dtype)

        with self._gradients.observe(keep, scale=float(self._count)):
            loss = run()
            found = torch.autograd.grad(loss.sum() / self._count, list(self._weights.values()))
        # All are converted before the first is added: what follows allocates no memory, and so cannot fail halfway.
        totals = list(self._mean.values())
        added = [gradient.to(total.dtype).flatten() for total, gradient in zip(totals, found, strict=True)]
        for total, gradient in zip(totals, added, strict=True):
            total += gradient
        self._losses.append((numbers, loss.detach()))

    def result(self) -> ProbeGradients:
        """Return losses and gradients, once every item was in a pass."""
        return ProbeGradients(in_order(self._losses).cpu(), self._mean, self._items)


def probe_gradients(
    model: nn.Module,
    gradients: PerSampleGradients,
    weights: Mapping[str, Tensor],
    chunks: Sequence[Chunk],
    *,
    items_of: Callable[[str], bool],
) -> ProbeGradients:
    """Return losses, mean gradient and each item's gradients of one side of a probe, in one pass over the chunks.

    Args:
        model: The model, which is put in evaluation mode for the time.
        gradients: The hooks on the layers that `weights` names.
        weights: The weight of each layer, by name.
        chunks: The items in parts that fit into memory; together they hold each item once.
        items_of: Whether the item gradients of a layer are kept.
    """
    total = ProbeGradientSum(gradients, weights, sum(len(numbers) for numbers, _ in chunks), items_of=items_of)
    with undisturbed(model), torch.enable_grad():
        for numbers, run in chunks:
            total.add(numbers, run)
    return total.result()


def in_order(parts: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
    """Return the values of all items in the items' order, from parts of item numbers and values [items, ...]."""
    numbers = [number for part, _ in parts for number in part]
    values = torch.cat([loss.detach() for _, loss in parts])
    result = torch.empty_like(values)
    result[torch.as_tensor(numbers)] = values
    return result


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
