"""Per-sample gradients against autograd, one sample at a time, in float64: every form of LoRA, or a refusal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.worker.influence.conftest import ALL_LINEAR, RMSNorm
from worker.influence.gradients import PerSampleGradients, lora_layers
from worker.training.samples import IGNORED, Sample

CPU = torch.device("cpu")


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


def padded(samples: Sequence[Sample], *, length: int = 0, left: bool = False, pad: int = 0) -> Tokens:
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


def by_autograd(model: Any, sample: Sample) -> dict[str, Tensor]:
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
    lora_model: Callable[..., Any], samples: Sequence[Sample], device: torch.device
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


def assert_equal_autograd(model: Any, samples: Sequence[Sample], seen: dict[str, Tensor]) -> None:
    for number, sample in enumerate(samples):
        truth = by_autograd(model, sample)
        assert truth.keys() == seen.keys()
        for name, gradient in truth.items():
            assert gradient.abs().max() > 0, name
            torch.testing.assert_close(seen[name][number], gradient, rtol=1e-9, atol=1e-12)


def wake(model: nn.Module) -> None:
    """lora_B away from zero, so that lora_A has a gradient."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)


def llama(folder: Path, **options: Any) -> LlamaForCausalLM:
    """The tiny Llama in float64, its options changed; new weights, where an option asks for them, are random."""
    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(folder, **options)
    model = LlamaForCausalLM(config).double()
    for name, module in list(model.named_modules()):
        if isinstance(module, LlamaRMSNorm):
            model.set_submodule(name, RMSNorm(module))
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p, std=0.1)
    return model


def with_lora(base: Any, **options: Any) -> Any:
    lora = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": list(ALL_LINEAR), **options})
    model = get_peft_model(base, lora, autocast_adapter_dtype=False)
    wake(model)
    return model


@pytest.mark.parametrize("target_modules", [("q_proj", "v_proj"), ("down_proj",), ALL_LINEAR])
def test_equal_autograd_of_each_sample_alone(
    lora_model: Any, samples: list[Sample], target_modules: tuple[str, ...]
) -> None:
    model = lora_model(target_modules=target_modules)
    assert_equal_autograd(model, samples, by_hooks(model, padded(samples)))


@pytest.mark.parametrize(
    ("base_options", "lora_options"),
    [
        ({}, {"use_rslora": True}),
        ({}, {"r": 1}),
        ({}, {"rank_pattern": {"q_proj": 2, "down_proj": 7}, "alpha_pattern": {"v_proj": 64}}),
        ({}, {"layers_to_transform": [1]}),
        ({}, {"init_lora_weights": "orthogonal"}),
        ({}, {"target_modules": "all-linear"}),
        # A base whose layers have biases, all of them frozen.
        ({"attention_bias": True, "mlp_bias": True}, {"bias": "none"}),
        # Llama's own layers have none that bias="all" could train.
        ({}, {"bias": "all"}),
        ({}, {"bias": "lora_only"}),
        ({"tie_word_embeddings": True}, {}),
        ({"tie_word_embeddings": True}, {"target_modules": ["lm_head", "v_proj"]}),
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_forms_of_lora(
    tiny_folder: Path, samples: list[Sample], base_options: dict[str, Any], lora_options: dict[str, Any]
) -> None:
    model = with_lora(llama(tiny_folder, **base_options), **lora_options)
    if base_options.get("tie_word_embeddings"):
        head = model.get_base_model().lm_head
        assert getattr(head, "base_layer", head).weight is model.get_base_model().model.embed_tokens.weight
    assert_equal_autograd(model, samples[:5], by_hooks(model, padded(samples[:5])))


def test_only_the_active_adapter_counts(tiny_folder: Path, samples: list[Sample]) -> None:
    model = with_lora(llama(tiny_folder))
    model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj", "o_proj"]))
    model = model.double()
    wake(model)
    first = by_hooks(model, padded(samples[:3]))
    assert {name.split(".")[-1] for name in first} == {"default"}
    assert_equal_autograd(model, samples[:3], first)
    model.set_adapter("second")
    second = by_hooks(model, padded(samples[:3]))
    assert {name.split(".")[-1] for name in second} == {"second"}
    assert len(second) == 8
    assert_equal_autograd(model, samples[:3], second)


def test_two_active_adapters_both_count(tiny_folder: Path, samples: list[Sample]) -> None:
    model = with_lora(llama(tiny_folder), target_modules=["v_proj"])
    model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj", "o_proj"]))
    model = model.double()
    wake(model)
    model.base_model.set_adapter(["default", "second"])
    seen = by_hooks(model, padded(samples[:3]))
    assert len(seen) == 12
    assert_equal_autograd(model, samples[:3], seen)


def test_duplicates_are_separate_and_equal(lora_model: Any, samples: list[Sample]) -> None:
    seen = by_hooks(lora_model(), padded(samples))
    for gradient in seen.values():
        torch.testing.assert_close(gradient[0], gradient[-1], rtol=1e-9, atol=1e-12)


def test_prompt_tokens_carry_gradient_although_they_have_no_loss(lora_model: Any, samples: list[Sample]) -> None:
    """Masking prompt positions would be wrong: keys and values of the prompt act on the answer's loss."""
    model = lora_model(target_modules=("v_proj",))
    sample = samples[4]
    answer_only = sum(1 for label in sample.labels if label != IGNORED)
    captured: list[Tensor] = []
    layer = next(iter(lora_layers(model).values()))
    handle = layer.register_forward_hook(lambda m, i, o: o.register_hook(captured.append) and None)
    mean_token_losses(model, padded([sample])).sum().backward()
    handle.remove()
    prompt = captured[0][0, : len(sample.ids) - answer_only]
    assert prompt.abs().max() > 1e-3 * captured[0].abs().max()


REFUSED = {
    "DoRA": ({}, {"use_dora": True}, "magnitude"),
    "bias of the base": ({"attention_bias": True}, {"bias": "lora_only"}, r"q_proj.base_layer.bias"),
    "all biases": ({"mlp_bias": True}, {"bias": "all"}, r"gate_proj.base_layer.bias"),
    "bias of lora_B": ({"attention_bias": True}, {"lora_bias": True, "target_modules": ["q_proj"]}, r"lora_B.*bias"),
    "modules_to_save": ({}, {"modules_to_save": ["lm_head"]}, r"lm_head.modules_to_save"),
    "embeddings": ({}, {"target_modules": ["embed_tokens", "v_proj"]}, "lora_embedding_A"),
    "token embeddings": ({}, {"trainable_token_indices": [3, 4]}, "trainable_tokens_delta"),
    "a variant": ({}, {"alora_invocation_tokens": [3, 4]}, "ALoraLinearVariant"),
}


@pytest.mark.parametrize(("base_options", "lora_options", "named"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_half_the_truth_is_refused(
    tiny_folder: Path, base_options: dict[str, Any], lora_options: dict[str, Any], named: str
) -> None:
    model = with_lora(llama(tiny_folder, **base_options), **lora_options)
    with pytest.raises(ValueError, match=f"nothing else may train: .*{named}"):
        lora_layers(model)


def test_full_layers_are_refused_and_models_without_lora(lora_model: Any) -> None:
    model = lora_model()
    model.get_base_model().lm_head.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"also trainable: .*lm_head"):
        lora_layers(model)
    with pytest.raises(ValueError, match="no trainable LoRA layer"):
        lora_layers(nn.Linear(2, 2).requires_grad_(False))


def test_layers_that_share_a_weight_are_refused(lora_model: Any) -> None:
    model = lora_model(target_modules=("v_proj",))
    first, _, second, _ = lora_layers(model).values()
    second.weight = first.weight
    with pytest.raises(ValueError, match="share one weight"):
        lora_layers(model)


def test_a_layer_that_is_used_twice_in_a_pass_is_refused(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model()
    decoder = model.get_base_model().model.layers
    decoder[1] = decoder[0]
    with pytest.raises(RuntimeError, match="used more than once"):
        by_hooks(model, padded(samples[:2]))


def test_two_passes_in_one_observation_are_refused(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model()
    watched = PerSampleGradients(lora_layers(model))
    with watched.observe(lambda name, gradient: None, scale=1.0):
        mean_token_losses(model, padded(samples[:2])).sum().backward()
        with pytest.raises(RuntimeError, match="two passes ran in one observation"):
            mean_token_losses(model, padded(samples[2:4])).sum().backward()


def test_observations_do_not_nest(lora_model: Any) -> None:
    watched = PerSampleGradients(lora_layers(lora_model()))
    with (
        watched.observe(lambda name, gradient: None, scale=1.0),
        pytest.raises(RuntimeError, match="observed already"),
        watched.observe(lambda name, gradient: None, scale=1.0),
    ):
        pass
