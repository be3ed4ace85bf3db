"""Per-sample gradients against autograd, one sample at a time, in float64: every form of LoRA, or a refusal."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.support.gradients import assert_equal_autograd, by_hooks, mean_token_losses, padded
from tests.support.tiny_model import ALL_LINEAR, RMSNorm
from worker.influence.capture.per_sample_gradients import PerSampleGradients, lora_layers
from worker.training.tokenization import IGNORED, TokenizedSample, encode

CPU = torch.device("cpu")


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
    lora_model: Any, samples: list[TokenizedSample], target_modules: tuple[str, ...]
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
    tiny_folder: Path, samples: list[TokenizedSample], base_options: dict[str, Any], lora_options: dict[str, Any]
) -> None:
    model = with_lora(llama(tiny_folder, **base_options), **lora_options)
    if base_options.get("tie_word_embeddings"):
        head = model.get_base_model().lm_head
        assert getattr(head, "base_layer", head).weight is model.get_base_model().model.embed_tokens.weight
    assert_equal_autograd(model, samples[:5], by_hooks(model, padded(samples[:5])))


def test_only_the_active_adapter_counts(tiny_folder: Path, samples: list[TokenizedSample]) -> None:
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


def test_two_active_adapters_both_count(tiny_folder: Path, samples: list[TokenizedSample]) -> None:
    model = with_lora(llama(tiny_folder), target_modules=["v_proj"])
    model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj", "o_proj"]))
    model = model.double()
    wake(model)
    model.base_model.set_adapter(["default", "second"])
    seen = by_hooks(model, padded(samples[:3]))
    assert len(seen) == 12
    assert_equal_autograd(model, samples[:3], seen)


def test_duplicates_are_separate_and_equal(lora_model: Any, samples: list[TokenizedSample]) -> None:
    seen = by_hooks(lora_model(), padded(samples))
    for gradient in seen.values():
        torch.testing.assert_close(gradient[0], gradient[-1], rtol=1e-9, atol=1e-12)


def test_prompt_tokens_carry_gradient_although_they_have_no_loss(
    lora_model: Any, samples: list[TokenizedSample]
) -> None:
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


def test_of_a_sample_whose_turns_all_have_loss(lora_model: Any, tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    turns = [{"role": "user", "content": "Which lamp?"}, {"role": "assistant", "content": "The paper lamp."}]
    answer, everything = (encode(turns, tokenizer, max_length=500, turns=which) for which in ("assistant", "all"))
    assert answer.ids == everything.ids
    found = tokenizer.decode([label for label in everything.labels if label != IGNORED])
    assert found.startswith("Which lamp?The paper lamp.")
    model = lora_model()
    seen = by_hooks(model, padded([everything, answer]))
    assert_equal_autograd(model, [everything, answer], seen)
    assert any((gradient[0] - gradient[1]).abs().max() > 1e-3 * gradient.abs().max() for gradient in seen.values())


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


def test_a_layer_that_is_used_twice_in_a_pass_is_refused(lora_model: Any, samples: list[TokenizedSample]) -> None:
    model = lora_model()
    decoder = model.get_base_model().model.layers
    decoder[1] = decoder[0]
    with pytest.raises(RuntimeError, match="used more than once"):
        by_hooks(model, padded(samples[:2]))


def test_two_passes_in_one_observation_are_refused(lora_model: Any, samples: list[TokenizedSample]) -> None:
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
