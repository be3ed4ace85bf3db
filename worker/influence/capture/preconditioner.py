"""What an optimiser multiplies a gradient with, and how its momentum carries it on, read from its state."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from worker.influence.momentum import Momentum

Weights = Mapping[str, Tensor]

Preconditioner = Callable[[Weights], dict[str, Tensor] | None]
"""P of each weight, [numel], as the optimiser's last step applied it: without momentum that step was -eta P g.

It lags the step under way by one, whose own P needs the gradient of the whole batch. Where no gradient was ever seen
P is 0 and not 1 / eps. None before the first step, of an optimiser that then has no P: 1 would be no stand-in, its
scale is another.
"""

SUPPORTED = "torch.optim.AdamW, Adam, SGD and Adafactor, transformers.Adafactor, and Adam or AdamW of bitsandbytes"
"""The optimisers that can be recorded, for errors."""

_BITSANDBYTES_BLOCK = 256
"""Values that share one scale in a quantised state (bitsandbytes.functional.quantize_blockwise in its optimisers)."""


def preconditioner_of(optimizer: torch.optim.Optimizer) -> Preconditioner:
    """Return what reads the preconditioner of an optimiser, wrapped (by accelerate, say) or not.

    Raises:
        ValueError: The optimiser is not supported, or its options give its steps another form.
    """
    inner = _unwrapped(optimizer)
    read = {
        "adam": adamw_preconditioner,
        "sgd": _sgd_preconditioner,
        "adafactor": _adafactor_preconditioner,
        "transformers-adafactor": _transformers_adafactor_preconditioner,
    }[_family(inner)]
    if any(group.get("maximize") for group in inner.param_groups):
        raise ValueError("the optimizer maximises; influence is about a loss that falls: use maximize=False")
    return lambda weights: read(inner, weights)


def momentum_of(optimizer: torch.optim.Optimizer) -> Momentum:
    """Return how the optimiser carries gradients from step to step.

    Raises:
        ValueError: The optimiser is not supported, or its parameter groups differ.
    """
    inner = _unwrapped(optimizer)
    family = _family(inner)
    found = {_momentum_of_group(family, group) for group in inner.param_groups}
    if len(found) != 1:
        raise ValueError("the optimizer's parameter groups have different momentum; give them the same")
    return found.pop()


def adamw_preconditioner(optimizer: torch.optim.Optimizer, weights: Weights) -> dict[str, Tensor] | None:
    """Return P = 1 / (sqrt(v_hat) + eps) of Adam and AdamW; with amsgrad v is the largest so far.

    The states of 8-bit Adam are dequantised: P then has the quantiser's error, and is 0 where v was rounded to zero.

    Args:
        optimizer: The optimiser, unwrapped.
        weights: The weights whose preconditioner is read, by name.

    Returns:
        P of each weight, flattened, by name; None before the first step.
    """
    states = _states(optimizer, weights)
    if states is None:
        return None
    found = [_second_moment(state, group).flatten() for state, group in states]
    # One read for all weights where they lie: fused optimisers count their steps on the device, others do not.
    steps = torch.stack([torch.as_tensor(state["step"]) for state, _ in states]).tolist()
    corrections = [1.0 - float(group["betas"][1]) ** step for (_, group), step in zip(states, steps, strict=True)]
    p = list(torch._foreach_div(found, corrections))
    torch._foreach_sqrt_(p)
    torch._foreach_add_(p, [float(group["eps"]) for _, group in states])
    torch._foreach_reciprocal_(p)
    torch._foreach_mul_(p, torch._foreach_sign(found))
    return dict(zip(weights, p, strict=True))


def _sgd_preconditioner(_optimizer: torch.optim.Optimizer, weights: Weights) -> dict[str, Tensor] | None:
    """P = 1, with or without momentum."""
    return {name: _float32(weight.detach()).new_ones(()).expand(weight.numel()) for name, weight in weights.items()}


def _adafactor_preconditioner(optimizer: torch.optim.Optimizer, weights: Weights) -> dict[str, Tensor] | None:
    """P = scale / sqrt(v) of torch.optim.Adafactor, scale = max(eps2, RMS(weight)) min(1, 1 / (eta sqrt(t))).

    v is the outer product of its row and column means over its mean. RMS is of the present weight, which the next step
    uses. The clipping of whole updates (d) depends on the batch and is not in P.
    """
    states = _states(optimizer, weights)
    if states is None:
        return None
    found = {}
    for (name, weight), (state, group) in zip(weights.items(), states, strict=True):
        eps1, eps2 = group["eps"]
        eps1 = torch.finfo(weight.dtype).eps if eps1 is None else eps1
        if "row_var" in state:
            row, column = _float32(state["row_var"]), _float32(state["col_var"])
            v = row @ column / row.mean(dim=-2, keepdim=True).clamp_min(eps1)
        else:
            v = _float32(state["variance"])
        rate = group["lr"] * torch.as_tensor(state["step"], dtype=torch.float64, device=v.device).sqrt()
        rms = _float32(weight.detach()).norm() / math.sqrt(weight.numel())
        scale = rms.clamp_min(eps2) / rate.clamp_min(1.0)
        found[name] = (v.clamp_min(eps1**2).rsqrt() * scale * (v > 0)).flatten()
    return found


def _transformers_adafactor_preconditioner(
    optimizer: torch.optim.Optimizer, weights: Weights
) -> dict[str, Tensor] | None:
    """Return P = scale / sqrt(v) of transformers.Adafactor; v is as in torch's.

    scale is max(eps2, RMS) with scale_parameter, else 1. The clipping of whole updates (clip_threshold) depends on the
    batch and is not in P.
    """
    states = _states(optimizer, weights)
    if states is None:
        return None
    found = {}
    for name, (state, group) in zip(weights, states, strict=True):
        if group["relative_step"] or group["lr"] is None:
            raise ValueError("Adafactor sets its own learning rate; give it lr and relative_step=False")
        if "exp_avg_sq_row" in state:
            row, column = _float32(state["exp_avg_sq_row"]), _float32(state["exp_avg_sq_col"])
            # In this order: a product of two small means would leave the range of float32.
            p = (row / row.mean(dim=-1, keepdim=True)).rsqrt().unsqueeze(-1) * column.rsqrt().unsqueeze(-2)
        else:
            p = _float32(state["exp_avg_sq"]).rsqrt()
        seen = p < (2 * group["eps"][0]) ** -0.5
        if group["scale_parameter"]:
            p = p * torch.as_tensor(state["RMS"]).clamp_min(group["eps"][1])
        # It adds eps1 to every squared gradient, so a weight without any stands at about eps1.
        found[name] = (p * seen).flatten()
    return found


def _momentum_of_group(family: str, group: Mapping[str, Any]) -> Momentum:
    if family == "adam":
        return Momentum(float(group["betas"][0]), corrected=True)
    if family == "sgd":
        decay = float(group["momentum"])
        # Without momentum it keeps no sum that could be damped.
        dampening = float(group["dampening"]) if decay else 0.0
        return Momentum(decay, corrected=False, dampening=dampening, nesterov=bool(group["nesterov"]))
    if group.get("beta1") is not None:
        raise ValueError("Adafactor's first moment is not supported; use beta1=None")
    return Momentum(0.0, corrected=False)


def _states(
    optimizer: torch.optim.Optimizer, weights: Weights
) -> Sequence[tuple[dict[str, Any], dict[str, Any]]] | None:
    """State and parameter group of each weight, in order; None while one of them has no state."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, weight in weights.items() if id(weight) not in groups]
    if missing:
        raise ValueError(f"the optimizer does not train {missing[0]}; give it every trainable LoRA weight")
    states = [(optimizer.state.get(weight), groups[id(weight)]) for weight in weights.values()]
    return [(state, group) for state, group in states if state] if all(state for state, _ in states) else None


def _second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    """Return v before its correction, in float32 at least."""
    if "state2" not in state:
        return _float32(state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"])
    stored: Tensor = state["state2"]
    if stored.dtype != torch.uint8:
        return _float32(stored)
    values, scales = stored.flatten(), state.get("absmax2")
    if scales is None or len(scales) != -(-len(values) // _BITSANDBYTES_BLOCK):
        raise ValueError(
            f"the optimizer's 8-bit state is not quantised in blocks of {_BITSANDBYTES_BLOCK}; update bitsandbytes"
        )
    return state["qmap2"][values.int()] * scales.repeat_interleave(_BITSANDBYTES_BLOCK)[: len(values)]


def _family(optimizer: torch.optim.Optimizer) -> str:
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        return "adam"
    if isinstance(optimizer, torch.optim.SGD):
        return "sgd"
    if isinstance(optimizer, torch.optim.Adafactor):
        return "adafactor"
    # By name, since neither library is needed to train.
    for kind in type(optimizer).__mro__:
        if (kind.__module__, kind.__name__) == ("transformers.optimization", "Adafactor"):
            return "transformers-adafactor"
        if kind.__module__ in ("bitsandbytes.optim.adam", "bitsandbytes.optim.adamw"):
            return "adam"
    raise ValueError(f"the preconditioner of {type(optimizer).__name__} is not known; supported are {SUPPORTED}")


def _unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def _float32(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
