"""Per-sample gradients of linear layers, formed in the ordinary backward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Consumer = Callable[[str, Tensor], None]
"""Called with a layer's name and its per-sample weight gradients [batch, out * in], once a backward pass; in float32 at
least."""

Destination = Callable[[str, int], Tensor]
"""Called with a layer's name and a batch size; returns the tensor [batch, out * in] to write its gradients to, whose
samples need not be contiguous. It has the gradients' type."""


def lora_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the trainable low-rank layers of a PEFT model, by qualified name: those of the active adapter.

    Raises:
        ValueError: Their gradients would not be the whole change of the model: something else is trainable (DoRA
            magnitudes, biases, embeddings, full layers), layers share a weight, or a variant of LoRA other than
            rank-stabilised LoRA computes something else with them. Also if there is no such layer.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad and (".lora_A." in name or ".lora_B." in name)
    }
    names = {id(layer.weight): name for name, layer in layers.items()}
    missed = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in names]
    variants = {
        type(variant).__name__
        for module in model.modules()
        for adapter, variant in getattr(module, "lora_variant", {}).items()
        if adapter in getattr(module, "active_adapters", ())
    }
    if not layers:
        problem = "no trainable LoRA layer was found; wrap the model with a peft.LoraConfig and activate its adapter"
    elif missed:
        problem = f"also trainable: {', '.join(missed[:3])}; leave bias, lora_bias, use_dora, modules_to_save, "
        problem += "trainable_token_indices, embeddings and convolutions out of the LoraConfig"
    elif variants:
        problem = f"found {', '.join(sorted(variants))}; use plain LoRA"
    elif len(names) < len(layers):
        shared = next(name for name, layer in layers.items() if names[id(layer.weight)] != name)
        problem = f"{shared} and {names[id(layers[shared].weight)]} share one weight; give each its own"
    else:
        return layers
    raise ValueError(f"influence is recorded for the linear LoRA layers of PEFT and nothing else may train: {problem}")


class PerSampleGradients:
    """Hooks on linear layers that pass each sample's weight gradient to a consumer and keep nothing.

    With `a` [batch, time, in] the layer's input and `b` [batch, time, out] the gradient of the loss with respect to its
    output, sample n's weight gradient is sum_t b[n,t] a[n,t]^T. LoRA's rank is far below the sequence length, so
    forming it costs less than the Gram products of the "ghost" trick, and no more than contracting `a` with a direction
    first. Weights, `.grad` and every value of the forward and backward pass stay unchanged.
    """

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        self._observation: _Observation | None = None
        self._factor: Tensor | None = None
        self._handles = [
            layer.register_forward_hook(partial(self._after_forward, name)) for name, layer in layers.items()
        ]

    @contextmanager
    def observe(self, consumer: Consumer, *, scale: float, into: Destination | None = None) -> Iterator[None]:
        """Within the block, watch one forward pass and let its backward pass feed `consumer`.

        Args:
            consumer: Called with each layer's gradients during the backward pass.
            scale: Undoes the loss's own scaling: with a backward pass through sum_n loss_n / B it is B, so that the
                consumer sees the gradient of sample n's own loss.
            into: Provides the memory that gradients are written to; None to allocate it.

        Raises:
            RuntimeError: An observation is already running. In the backward pass also if a layer was used more than
                once in the forward pass: its gradient would be the sum over the uses.
        """
        if self._observation is not None:
            raise RuntimeError("per-sample gradients are being observed already")
        self._observation = _Observation(consumer, scale, self._factor, into)
        try:
            yield
        finally:
            self._observation = None

    @contextmanager
    def rescaled(self, factor: Tensor) -> Iterator[None]:
        """Within the block, multiply sample n's gradients by factor[n] in addition to the scale.

        For losses that weight their samples unequally, as a mean over all tokens of a batch does.
        """
        self._factor = factor
        try:
            yield
        finally:
            self._factor = None

    def remove(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()

    def _after_forward(self, name: str, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
        observation = self._observation
        # Reentrant activation checkpointing runs a first forward pass without gradients: the recomputation counts.
        if observation is None or not output.requires_grad:
            return None
        if inputs[0].ndim != 3:
            raise ValueError(f"{name}: expected an input [batch, time, in], got {tuple(inputs[0].shape)}")
        activation = inputs[0].detach()
        if activation.dtype != output.dtype:
            # Under autocast the layer computed with a rounded copy of its input.
            activation = activation.to(output.dtype)
        return _Tap.apply(output, activation, name, observation)


class _Observation:
    """One watched forward and backward pass."""

    def __init__(self, consumer: Consumer, scale: float, factor: Tensor | None, into: Destination | None) -> None:
        self._consumer, self._scale, self._into = consumer, scale, into
        self._factor = None if factor is None else factor[:, None]
        self._seen: set[str] = set()

    def deliver(self, name: str, gradient: Tensor, activation: Tensor) -> None:
        """Form the layer's per-sample gradients from the gradient of its output and its input, and pass them on."""
        if name in self._seen:
            raise RuntimeError(
                f"{name} was used more than once in one forward pass, or two passes ran in one observation; observe "
                "each pass by itself, and leave layers that a model uses repeatedly out of target_modules"
            )
        self._seen.add(name)
        if torch.is_autocast_enabled(gradient.device.type):
            # Where the backward pass runs inside autocast, too, it would round these products to half precision.
            with torch.autocast(gradient.device.type, enabled=False):
                self._consume(name, gradient, activation)
        else:
            self._consume(name, gradient, activation)

    def _consume(self, name: str, gradient: Tensor, activation: Tensor) -> None:
        out = None if self._into is None else self._into(name, len(gradient))
        found = _per_sample(gradient, activation, self._scale, out)
        if self._factor is not None:
            found.mul_(self._factor)
        self._consumer(name, found)


class _Tap(torch.autograd.Function):
    """Identity whose backward pass delivers the gradient of the output and the input of the layer.

    The input is saved by autograd itself, so activation checkpointing drops and recomputes it together with the layer's
    own copy, which is the same memory; a tensor held by a hook would defeat it.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, activation: Tensor, name: str, observation: _Observation) -> Tensor:
        ctx.save_for_backward(activation)
        ctx.name, ctx.observation = name, observation
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (activation,) = ctx.saved_tensors
        ctx.observation.deliver(ctx.name, gradient, activation)
        return gradient, None, None, None


def _per_sample(gradient: Tensor, activation: Tensor, scale: float, out: Tensor | None) -> Tensor:
    """Return scale sum_t b[n,t] a[n,t]^T, [batch, out * in], written to `out` if there is one.

    It is summed in float32 at least: half precision would lose small terms.
    """
    b, a = gradient.transpose(1, 2), activation
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        # The tensor cores sum in float32 anyway; copies in float32 would be most of the cost.
        product = torch.bmm(b, a, out_dtype=torch.float32).flatten(1).mul_(scale)
        return product if out is None else out.copy_(product)
    dtype = torch.promote_types(a.dtype, torch.float32)
    if out is None:
        out = torch.empty(len(b), b.shape[1] * a.shape[2], dtype=dtype, device=a.device)
    if a.dtype != dtype:
        b, a = b.to(dtype), a.to(dtype)
    target = out.unflatten(1, (b.shape[1], a.shape[2]))
    # With beta = 0 the former content of the target is not read.
    torch.baddbmm(target, b, a, beta=0.0, alpha=scale, out=target)
    return out
