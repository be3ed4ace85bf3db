"""What is wrong with a model's files is named before anything is trained: no weight is ever drawn at random."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from service.contract.failure import ErrorCode, Failure
from service.contract.spec import ModelSource, ModelSpec, TrainingConfig
from worker.training.errors import TrainingError
from worker.training.lora import with_lora
from worker.training.models import load_model, pad_id, position_count

CPU = torch.device("cpu")


@pytest.fixture
def own(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be changed."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(source=ModelSource.LOCAL, location=str(folder))


def failure(folder: Path) -> Failure:
    with pytest.raises(TrainingError) as caught:
        load_model(spec_of(folder), TrainingConfig(), CPU, cache=folder)
    return caught.value.failure


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(dict(change(load_file(path))), path, metadata={"format": "pt"})


def set_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_missing_weights_are_named(own: Path) -> None:
    rewrite(own, lambda weights: {name: w for name, w in weights.items() if "layers.1" not in name})
    found = failure(own)
    assert found.code is ErrorCode.MODEL_NOT_FOUND
    assert "model.layers.1." in found.message
    assert " and 4 more." in found.message


def test_a_folder_without_a_head(own: Path) -> None:
    rewrite(own, lambda weights: {name: w for name, w in weights.items() if name != "lm_head.weight"})
    assert "lm_head.weight" in failure(own).message


def test_surplus_weights_are_named(own: Path) -> None:
    rewrite(own, lambda weights: {**weights, "score.weight": torch.zeros(2, 32)})
    found = failure(own)
    assert found.code is ErrorCode.MODEL_NOT_FOUND
    assert "score.weight" in found.message


def test_weights_of_another_size_are_named(own: Path) -> None:
    rewrite(own, lambda weights: {**weights, "model.norm.weight": torch.ones(31)})
    found = failure(own)
    assert found.code is ErrorCode.MODEL_NOT_FOUND
    assert "model.norm.weight" in found.message


def test_tied_weights_and_old_buffers_are_not_missed(own: Path) -> None:
    """A head that is the embedding is not saved; old checkpoints keep what is computed today."""
    config = LlamaConfig.from_pretrained(own)
    config.tie_word_embeddings = True
    model = LlamaForCausalLM(config)
    model.save_pretrained(own)
    assert "lm_head.weight" not in load_file(own / "model.safetensors")
    rewrite(own, lambda weights: {**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    load_model(spec_of(own), TrainingConfig(), CPU, cache=own)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("adapter_config.json", b'{"base_model_name_or_path": "/srv/other"}', ErrorCode.MODEL_UNSAFE),
        ("optimizer.pt", b"", ErrorCode.MODEL_UNSAFE),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", ErrorCode.MODEL_NOT_FOUND),
        ("model.safetensors", b"", ErrorCode.MODEL_NOT_FOUND),
        ("tokenizer.json", b"{", ErrorCode.MODEL_NOT_FOUND),
        ("config.json", b"{}", ErrorCode.MODEL_NOT_FOUND),
        ("config.json", b'{"model_type": "llama", "hidden_size": "wide"}', ErrorCode.MODEL_NOT_FOUND),
    ],
)
def test_what_changed_since_the_registration_is_seen(own: Path, name: str, content: bytes, code: ErrorCode) -> None:
    (own / name).write_bytes(content)
    assert failure(own).code is code


def test_cut_weights(own: Path) -> None:
    path = own / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    found = failure(own)
    assert found.code is ErrorCode.MODEL_NOT_FOUND
    assert "model.safetensors is damaged" in found.message


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_quantised_weights(own: Path, method: str) -> None:
    set_json(own / "config.json", quantization_config={"quant_method": method, "bits": 4})
    found = failure(own)
    assert found.code is ErrorCode.BAD_CONFIG
    assert "quantised" in found.message


def test_padding_without_a_padding_token(own: Path) -> None:
    """Padding has no attention, so any id serves; one beyond the embeddings would not."""
    path = own / "tokenizer_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in content.items() if not k.endswith("_token")}))
    set_json(own / "config.json", pad_token_id=None, eos_token_id=None, bos_token_id=None)
    model, tokenizer = load_model(spec_of(own), TrainingConfig(), CPU, cache=own)
    assert tokenizer.pad_token_id is None
    assert pad_id(tokenizer, model) == 0
    tokenizer.add_special_tokens({"pad_token": "<|new|>"})
    assert tokenizer.pad_token_id >= len(model.get_input_embeddings().weight)
    assert pad_id(tokenizer, model) == 0


def test_positions_that_are_learned_are_counted(own: Path) -> None:
    model, _ = load_model(spec_of(own), TrainingConfig(), CPU, cache=own)
    assert position_count(model) is None
    assert (
        position_count(GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=64, n_embd=8, n_layer=1, n_head=1))) == 64
    )
    opt = OPTConfig(
        vocab_size=9, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=48,
        word_embed_proj_dim=8,
    )  # fmt: skip
    assert position_count(OPTForCausalLM(opt)) == 48


@pytest.mark.parametrize(
    ("targets", "named", "known"),
    [
        (("q_proj", "nope"), "named nope.", "q_proj, k_proj"),
        (("lm_head",), "lm_head", "down_proj"),
        (("embed_tokens",), "embed_tokens", "q_proj"),
        (("q_proj", "self_attn"), "self_attn", "q_proj"),
    ],
)
def test_targets_are_linear_layers_of_the_blocks(own: Path, targets: tuple[str, ...], named: str, known: str) -> None:
    model, _ = load_model(spec_of(own), TrainingConfig(), CPU, cache=own)
    with pytest.raises(TrainingError) as caught:
        with_lora(model, TrainingConfig(target_modules=targets))
    found = caught.value.failure
    assert found.code is ErrorCode.BAD_CONFIG
    assert named in found.message
    assert known in found.hint
    assert "lm_head" not in found.hint


def test_a_target_may_be_named_in_full(own: Path) -> None:
    model, _ = load_model(spec_of(own), TrainingConfig(), CPU, cache=own)
    wrapped = with_lora(model, TrainingConfig(target_modules=("layers.1.self_attn.q_proj",)))
    assert sum("lora_A" in name for name, _ in wrapped.named_parameters()) == 1
