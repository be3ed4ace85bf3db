"""Layers of one shape side by side, so that a GPU contracts many of them in one kernel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

STACKED = {"cuda": 8}
"""Most layers in one stack, by device type. A kernel on a GPU costs its launch, however little it computes, and a model
of 8 billion parameters has 448 low-rank layers. On other devices it is one: the gradients stay in the processor's
cache."""

KEPT = {"cuda": torch.bfloat16}
"""Type in which float32 directions of the alignment are kept, by device type. They take most of the memory that an
audit needs beside the training: 2.4 GB of float32 for one probe at 8 billion parameters. Rounding changes each
coordinate independently by 1 in 500, as in a gradient computed in bfloat16; a cosine changes by about 1 in 1,000. On
other devices they stay as they are."""

TERMS = 8192
"""A sum of more products than this is split into parts, which a GPU computes in parallel."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Layers with the same number of parameters; tensors over it are [rows, layers, numel]."""

    names: tuple[str, ...]
    numel: int

    def stacked(self, of_layers: Mapping[str, Tensor]) -> Tensor:
        """Return the layers' tensors [rows, numel] (or [numel], one row) as one tensor, [rows, layers, numel]."""
        found = [of_layers[name].view(-1, self.numel) for name in self.names]
        return torch.stack(found, dim=1) if len(found) > 1 else found[0][:, None]

    def contracted(self, gradients: Tensor, rows: Tensor) -> Tensor:
        """Return sum_n gradients[b, l, n] rows[r, l, n], [layers, b, r], summed in the gradients' type.

        Args:
            gradients: [batch, layers, numel], per-sample gradients.
            rows: [rows, layers, numel], the directions to contract them with.
        """
        layers, parts = len(self.names), _parts(self.numel)
        left = gradients.view(len(gradients), layers * parts, -1).transpose(0, 1)
        right = rows.view(len(rows), layers * parts, -1).permute(1, 2, 0)
        if right.dtype == left.dtype:
            product = torch.bmm(left, right)
        elif right.is_cuda:
            product = torch.bmm(left.to(right.dtype), right, out_dtype=left.dtype)
        else:
            product = torch.bmm(left, right.to(left.dtype))
        product = product.view(layers, parts, len(gradients), len(rows))
        return product.sum(1) if parts > 1 else product[:, 0]


def stacks_of(sizes: Mapping[str, int], device: torch.device, apart: Callable[[str], bool]) -> list[Stack]:
    """Group layers with equally many parameters into stacks.

    Args:
        sizes: Number of parameters of each layer, by name.
        device: Where the gradients lie; its type decides how many layers share a stack.
        apart: Whether a layer belongs to a separate group; stacks never mix the two groups.

    Returns:
        The stacks, in the order in which their layers are given; each layer is in exactly one.
    """
    alike: dict[tuple[int, bool], list[str]] = {}
    for name, numel in sizes.items():
        alike.setdefault((numel, apart(name)), []).append(name)
    most = STACKED.get(device.type, 1)
    return [
        Stack(tuple(names[start : start + most]), numel)
        for (numel, _), names in alike.items()
        for start in range(0, len(names), most)
    ]


def kept_type(like: Tensor) -> torch.dtype:
    """Return the type in which to keep alignment directions that are computed in the type of `like`, on its device."""
    return KEPT.get(like.device.type, like.dtype) if like.dtype == torch.float32 else like.dtype


def _parts(numel: int) -> int:
    """Return the number of equal parts, a power of two, that a sum over numel terms is split into."""
    parts = 1
    while numel // parts > TERMS and numel % (2 * parts) == 0:
        parts *= 2
    return parts
