"""Per-sample gradients against autograd, one sample at a time, in float64."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from worker.influence.gradients import PerSampleGradients, lora_layers
from worker.training.samples import Batch, Sample, collate, sample_losses

CPU = torch.device("cpu")


def by_autograd(model: Any, sample: Sample) -> dict[str, Tensor]:
    """The independent truth: the sample alone, ordinary autograd."""
    layers = lora_layers(model)
    loss = sample_losses(model, collate([sample], pad=0, device=CPU)).sum()
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
    return {name: g.flatten() for name, g in zip(layers, gradients, strict=True)}


def by_hooks(model: Any, batch: Batch, scale: float) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    watched = PerSampleGradients(lora_layers(model))
    try:
        with watched.observe(seen.__setitem__, scale=scale):
            (sample_losses(model, batch).sum() / scale).backward()
    finally:
        watched.remove()
    return seen


@pytest.mark.parametrize("target_modules", [("q_proj", "v_proj"), ("down_proj",), None])
def test_equal_autograd_of_each_sample_alone(
    lora_model: Any, samples: list[Sample], target_modules: tuple[str, ...] | None
) -> None:
    model = lora_model(**({"target_modules": target_modules} if target_modules else {}))
    seen = by_hooks(model, collate(samples, pad=0, device=CPU), scale=len(samples))
    for number, sample in enumerate(samples):
        truth = by_autograd(model, sample)
        assert truth.keys() == seen.keys()
        for name, gradient in truth.items():
            assert gradient.abs().max() > 0
            torch.testing.assert_close(seen[name][number], gradient, rtol=1e-9, atol=1e-12)


def test_duplicates_are_separate_and_equal(lora_model: Any, samples: list[Sample]) -> None:
    seen = by_hooks(lora_model(), collate(samples, pad=0, device=CPU), scale=len(samples))
    for gradient in seen.values():
        torch.testing.assert_close(gradient[0], gradient[-1], rtol=1e-9, atol=1e-12)


def test_do_not_depend_on_batch_padding_or_scale(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model()
    together = by_hooks(model, collate(samples, pad=0, device=CPU), scale=len(samples))
    # Three other layouts: one at a time, padded to twice the length with another pad token, another loss scale.
    longest = max(len(sample.ids) for sample in samples)
    filler = Sample(tuple([5] * 2 * longest), tuple([5] * 2 * longest), False)
    for number, sample in enumerate(samples[:4]):
        alone = by_hooks(model, collate([sample], pad=0, device=CPU), scale=1)
        padded = by_hooks(model, collate([sample, filler], pad=77, device=CPU), scale=64)
        for name, gradient in together.items():
            torch.testing.assert_close(alone[name][0], gradient[number], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(padded[name][0], gradient[number], rtol=1e-9, atol=1e-12)


def test_do_not_depend_on_the_padding_side(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model()
    right = collate(samples[:2], pad=0, device=CPU)
    shift = len(samples[1].ids) - len(samples[0].ids)
    left = Batch(*(t.clone() for t in (right.ids, right.labels, right.attention)), keep=right.ids.shape[1])
    for tensor in (left.ids, left.labels, left.attention):
        tensor[0] = tensor[0].roll(shift)
    seen_right, seen_left = by_hooks(model, right, 2), by_hooks(model, left, 2)
    for name, gradient in seen_right.items():
        # Llama keeps the rotary angles of absolute positions in float32, and padding on the left shifts them.
        torch.testing.assert_close(seen_left[name], gradient, rtol=1e-5, atol=2e-8)


def test_average_to_the_gradient_that_trains(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model(dropout=0.3)
    model.train()
    model.zero_grad()
    seen = by_hooks(model, collate(samples, pad=0, device=CPU), scale=len(samples))
    for name, layer in lora_layers(model).items():
        assert layer.weight.grad is not None
        torch.testing.assert_close(seen[name].mean(0), layer.weight.grad.flatten(), rtol=1e-9, atol=1e-12)


def test_prompt_tokens_carry_gradient_although_they_have_no_loss(lora_model: Any, samples: list[Sample]) -> None:
    """Masking prompt positions would be wrong: keys and values of the prompt act on the answer's loss."""
    model = lora_model(target_modules=("v_proj",))
    sample = samples[4]
    answer_only = sum(1 for label in sample.labels if label != -100)
    captured: list[Tensor] = []
    layer = next(iter(lora_layers(model).values()))
    handle = layer.register_forward_hook(lambda m, i, o: o.register_hook(captured.append) and None)
    sample_losses(model, collate([sample], pad=0, device=CPU)).sum().backward()
    handle.remove()
    prompt = captured[0][0, : len(sample.ids) - answer_only]
    assert prompt.abs().max() > 1e-3 * captured[0].abs().max()


def test_anything_else_that_trains_is_refused(lora_model: Any) -> None:
    model = lora_model()
    model.get_base_model().lm_head.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"also trainable: .*lm_head"):
        lora_layers(model)
    with pytest.raises(ValueError, match="no trainable LoRA layer"):
        lora_layers(nn.Linear(2, 2).requires_grad_(False))


def test_dora_is_refused(lora_model: Any) -> None:
    base = lora_model().get_base_model()
    dora = get_peft_model(base, LoraConfig(r=2, target_modules=["lm_head"], use_dora=True), adapter_name="dora")
    with pytest.raises(ValueError, match="magnitude"):
        lora_layers(dora)
