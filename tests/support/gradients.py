"""Per-sample gradients worked out by autograd, sample by sample, and small models to take them of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from worker.influence.capture.per_sample_gradients import PerSampleGradients, lora_layers
from worker.influence.capture.probe_gradients import ProbeGradients, probe_gradients
from worker.influence.capture.recorder import is_aligned
from worker.training.batches import collate, forward
from worker.training.tokenization import IGNORED, TokenizedSample


@dataclass
class Tokens:
    """A padded batch."""

    ids: Tensor
    labels: Tensor
    attention: Tensor

    def beside(self, model: nn.Module) -> "Tokens":
        """On the model's device."""
        device = next(model.parameters()).device
        return Tokens(self.ids.to(device), self.labels.to(device), self.attention.to(device))


def padded(samples: Sequence[TokenizedSample], *, length: int = 0, left: bool = False, pad: int = 0) -> Tokens:
    longest = max(length, *(len(sample.ids) for sample in samples))
    tokens = Tokens(*(torch.full((len(samples), longest), fill) for fill in (pad, IGNORED, 0)))
    for number, sample in enumerate(samples):
        place = slice(longest - len(sample.ids), longest) if left else slice(0, len(sample.ids))
        tokens.ids[number, place] = torch.tensor(sample.ids)
        tokens.labels[number, place] = torch.tensor(sample.labels)
        tokens.attention[number, place] = 1
    return tokens


def mean_token_losses(model: Any, tokens: Tokens) -> Tensor:
    """Of each sample, written down once more: the mean of -log p over its labelled tokens, [batch]."""
    logits = model(input_ids=tokens.ids, attention_mask=tokens.attention, use_cache=False).logits[:, :-1]
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    targets = tokens.labels[:, 1:]
    labelled = targets != IGNORED
    nll = -log_p.gather(2, targets.clamp_min(0)[..., None])[..., 0]
    return torch.where(labelled, nll, 0.0).sum(1) / labelled.sum(1).clamp_min(1)


def by_autograd(model: Any, sample: TokenizedSample) -> dict[str, Tensor]:
    """The independent truth: the sample alone, ordinary autograd."""
    layers = lora_layers(model)
    loss = mean_token_losses(model, padded([sample]).beside(model)).sum()
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
    return {name: g.flatten() for name, g in zip(layers, gradients, strict=True)}


def by_hooks(model: Any, tokens: Tokens, *, divisor: float | None = None) -> dict[str, Tensor]:
    """From one backward pass through the sum of all losses over `divisor`."""
    scale = float(len(tokens.ids)) if divisor is None else divisor
    seen: dict[str, Tensor] = {}
    watched = PerSampleGradients(lora_layers(model))
    try:
        with watched.observe(seen.__setitem__, scale=scale):
            (mean_token_losses(model, tokens.beside(model)).sum() / scale).backward()
    finally:
        watched.remove()
    return seen


def assert_bfloat16_base_is_close(
    lora_model: Callable[..., Any], samples: Sequence[TokenizedSample], device: torch.device
) -> None:
    """Against float64 autograd on the processor of the same rounded weights; the adapters are in float32, as PEFT
    keeps them. Ordinary autograd of one sample at a time has the error as well.
    """
    precise = lora_model()
    for p in precise.parameters():
        if not p.requires_grad:
            p.data = p.data.bfloat16().double()
    low = lora_model()
    low.load_state_dict(precise.state_dict())
    for name, p in low.named_parameters():
        p.data = (p.data.float() if "lora_" in name else p.data.bfloat16()).to(device)
    seen = by_hooks(low, padded(samples))
    assert all(gradient.dtype == torch.float32 for gradient in seen.values())
    errors = []
    for number, sample in enumerate(samples):
        truth, alone = by_autograd(precise, sample), by_autograd(low, sample)
        exact, ordinary = (torch.cat([found[name] for name in truth]).double().cpu() for found in (truth, alone))
        got = torch.cat([seen[name][number] for name in truth]).double().cpu()
        assert torch.cosine_similarity(got, exact, dim=0) > 0.999
        errors.append([float((found - exact).norm() / exact.norm()) for found in (got, ordinary)])
    ours, ordinary_error = torch.tensor(errors).T
    assert ours.max() < 0.05
    assert ours.square().mean().sqrt() < 1.1 * ordinary_error.square().mean().sqrt()


def assert_equal_autograd(model: Any, samples: Sequence[TokenizedSample], seen: dict[str, Tensor]) -> None:
    for number, sample in enumerate(samples):
        truth = by_autograd(model, sample)
        assert truth.keys() == seen.keys()
        for name, gradient in truth.items():
            assert gradient.abs().max() > 0, name
            torch.testing.assert_close(seen[name][number], gradient, rtol=1e-9, atol=1e-12)


def losses(model: Any, samples: Sequence[TokenizedSample]) -> torch.Tensor:
    return forward(model, collate(samples, pad=0, device=next(model.parameters()).device)).losses


def side_of(model: Any, gradients: PerSampleGradients, items: Sequence[TokenizedSample]) -> ProbeGradients:
    weights = {name: layer.weight for name, layer in lora_layers(model).items()}
    # Two to a chunk, the last items first: order and chunks must not matter.
    numbers = list(range(len(items)))[::-1]
    parts = [numbers[start : start + 2] for start in range(0, len(numbers), 2)]
    chunks = [(part, partial(losses, model, [items[i] for i in part])) for part in parts]
    return probe_gradients(model, gradients, weights, chunks, items_of=is_aligned)


def ones(model: Any) -> dict[str, torch.Tensor]:
    return {name: torch.ones_like(layer.weight).flatten() for name, layer in lora_layers(model).items()}
