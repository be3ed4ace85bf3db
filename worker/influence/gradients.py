"""Per-sample gradients of linear layers, formed in backward hooks while the ordinary backward pass runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Consumer = Callable[[str, Tensor], None]
"""Called with a layer's name and its per-sample weight gradients [batch, out * in], once a backward pass; in
float32 at least."""


def lora_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The trainable low-rank layers of a PEFT model, by qualified name.

    Raises ValueError when a parameter is trainable that these layers do not hold (DoRA magnitudes, biases, full
    layers), because its share of the gradient would be missing from every statistic.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad and (".lora_A." in name or ".lora_B." in name)
    }
    seen = {id(layer.weight) for layer in layers.values()}
    missed = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in seen]
    if missed or not layers:
        raise ValueError(
            "influence is recorded for the linear LoRA layers of PEFT and nothing else may be trained; "
            + (f"also trainable: {', '.join(missed[:3])}" if missed else "no trainable LoRA layer was found")
        )
    return layers


class PerSampleGradients:
    """Hooks on linear layers that hand each sample's weight gradient to a consumer and keep nothing.

    With `a` [batch, time, in] the layer's input and `b` [batch, time, out] the gradient of the loss in its output,
    sample n's weight gradient is sum_t b[n,t] a[n,t]^T. LoRA's rank lies far below the sequence length, so forming
    it costs less than the Gram products of the "ghost" trick. Hooks only read: weights and `.grad` are untouched.
    """

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        self._consumer: Consumer | None = None
        self._scale = 1.0
        self._handles = [layer.register_forward_hook(self._forward_hook(name)) for name, layer in layers.items()]

    @contextmanager
    def observe(self, consumer: Consumer, *, scale: float) -> Iterator[None]:
        """Within the block, every forward pass is watched and its backward pass feeds `consumer`.

        scale undoes the loss's own scaling: with a backward pass through sum_n loss_n / B it is B, so that the
        consumer sees the gradient of sample n's own loss.
        """
        if self._consumer is not None:
            raise RuntimeError("per-sample gradients are being observed already")
        self._consumer, self._scale = consumer, scale
        try:
            yield
        finally:
            self._consumer = None

    def remove(self) -> None:
        """Takes the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _forward_hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            consumer, scale = self._consumer, self._scale
            if consumer is None or not output.requires_grad:
                return
            activation = inputs[0].detach()
            if activation.ndim != 3:
                raise ValueError(f"{name}: expected an input [batch, time, in], got {tuple(activation.shape)}")

            def backward(gradient: Tensor) -> None:
                # Sums over tokens in bfloat16 would lose the small terms.
                dtype = torch.promote_types(gradient.dtype, torch.float32)
                per_sample = torch.bmm(gradient.to(dtype).transpose(1, 2), activation.to(dtype))
                consumer(name, per_sample.flatten(1).mul_(scale))

            output.register_hook(backward)

        return hook
