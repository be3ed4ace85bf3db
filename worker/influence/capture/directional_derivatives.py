"""Derivatives of many losses along one direction of the weights, by forward-mode differentiation."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel


def derivatives_along(module: nn.Module, direction: Mapping[str, Tensor], *inputs: Any) -> Tensor:
    """Differentiate all outputs of a module along one direction in its weights, in one forward pass.

    A backward pass gives the derivative of one number with respect to all weights; the forward mode gives that of all
    numbers along one direction. Nothing is kept for a backward pass, and neither weights nor `.grad` change.

    Args:
        module: Returns one tensor, of any shape.
        direction: By parameter name, a tensor with as many elements; other parameters stay unchanged.
        *inputs: The arguments that the module is called with.

    Returns:
        The derivative of each element of the output, float64, on the CPU.

    Raises:
        RuntimeError: An operation of the module has no forward mode, or memory is exhausted.
    """
    weights = dict(module.named_parameters())
    # The derivative is linear in the direction: of length one it stays far from the limits of half precision.
    size = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(own) for own in direction.values()])))
    if size == 0.0:
        with torch.no_grad():
            return torch.zeros_like(module(*inputs), device="cpu", dtype=torch.float64)
    # Fused attention has no forward mode; the plain one has.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        dual = {
            name: forward_ad.make_dual(
                weights[name].detach(), (own / size).to(weights[name].dtype).view_as(weights[name])
            )
            for name, own in direction.items()
        }
        values = functional_call(module, dual, inputs)
        tangent = forward_ad.unpack_dual(values).tangent
        found = torch.zeros_like(values) if tangent is None else tangent
        return found.cpu().double() * size
