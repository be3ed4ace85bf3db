"""What the optimiser multiplies a gradient with, read from its state."""

from collections.abc import Mapping

import torch
from torch import Tensor


def adamw_preconditioner(optimizer: torch.optim.AdamW, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """P = 1 / (sqrt(v_hat) + eps) per weight, [numel], as AdamW's last step applied it.

    It lags the step under way by one, since that step's second moment needs the gradient of the whole batch. Where
    no gradient was ever seen P is 0 and not 1 / eps. None before the first step: 1 would be no stand-in, its scale
    is another.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {}
    for name, weight in weights.items():
        state = optimizer.state.get(weight)
        if not state:
            return None
        group = groups[id(weight)]
        if group.get("amsgrad"):
            raise ValueError("amsgrad divides by the largest second moment; use AdamW without it")
        correction = 1.0 - group["betas"][1] ** float(state["step"])
        second_moment = state["exp_avg_sq"].detach().flatten()
        preconditioner = 1.0 / ((second_moment / correction).sqrt_() + group["eps"])
        found[name] = preconditioner.mul_(second_moment > 0)
    return found
