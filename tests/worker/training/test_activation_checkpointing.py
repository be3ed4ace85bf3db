"""Activations that are dropped and computed again change no result, and take less memory in every kind of pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contract.failure import ErrorCode
from service.contract.spec import ModelSpec, TrainingConfig
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import ProbeShape, plan
from worker.training.activation_checkpointing import checkpoint_activations
from worker.training.errors import TrainingError
from worker.training.loop import train
from worker.training.lora import with_lora
from worker.training.measurement import EncodedProbe
from worker.training.models import load_model
from worker.training.tokenization import IGNORED, TokenizedSample

CPU = torch.device("cpu")


def made_samples() -> list[TokenizedSample]:
    generator = torch.Generator().manual_seed(11)
    ids = [torch.randint(3, 250, (20 + number % 11,), generator=generator).tolist() for number in range(36)]
    return [TokenizedSample(tuple(own), tuple([IGNORED] * 2 + own[2:])) for own in ids]


SAMPLES = made_samples()
PROBE = EncodedProbe(SAMPLES[:6], SAMPLES[6:12])


def run(spec: ModelSpec, config: TrainingConfig) -> tuple[dict[str, Any], dict[str, int]]:
    """What a run leaves, and the most bytes that a pass of each kind keeps for its backward pass."""
    base, _ = load_model(spec, config, CPU, cache=Path())
    model = with_lora(base, config)
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}
    most: dict[str, int] = {}
    kind = "none"

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal kind
        kind = "training" if module.training else "measuring" if torch.is_grad_enabled() else "losses"
        kept.clear()

    def end(*_: Any) -> None:
        size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        most[kind] = max(most.get(kind, 0), size)

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that nothing gets its address
        return tensor

    model.register_forward_pre_hook(begin, with_kwargs=True)
    model.register_forward_hook(end)
    recorder = Recorder(lora_layers(model), plan([ProbeShape(np.arange(6) % 3, has_reference=True)], seed=0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outcome = train(model, SAMPLES, config, pad=0, probes=[PROBE], recorder=recorder)
    observations, _ = recorder.result()
    product, norm = recorder.products()
    weights = {name: p.detach().numpy() for name, p in model.named_parameters() if p.requires_grad}
    return {
        **weights,
        "row": observations.row,
        "effect": observations.effect,
        "alignment": observations.alignment,
        "product": product,
        "norm": norm,
        "losses": np.array(outcome.losses),
        "probe_loss": np.stack(outcome.by_products.probe_loss),
        "items": np.concatenate([own for found in recorder.item_alignment for own in found]),
        "inner": outcome.by_products.inner.whole().float().numpy(),
    }, most


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_no_result_changes_and_all_passes_keep_less(tiny_spec: ModelSpec, dropout: float) -> None:
    config = TrainingConfig(learning_rate=1e-2, epochs=2, batch_size=6, dtype="float32", lora_dropout=dropout)
    expected, whole = run(tiny_spec, config)
    found, less = run(tiny_spec, config.model_copy(update={"gradient_checkpointing": True}))
    assert found.keys() == expected.keys()
    for name, own in expected.items():
        scale = float(np.abs(own[np.isfinite(own)]).mean())
        np.testing.assert_allclose(found[name], own, rtol=1e-6, atol=1e-6 * scale, err_msg=name)
    for kind in ("training", "measuring"):
        assert less[kind] < 0.5 * whole[kind], kind


def test_a_model_that_cannot_is_refused(tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig()
    base, _ = load_model(tiny_spec, config, CPU, cache=Path())
    model = with_lora(base, config)
    monkeypatch.setattr(type(base), "supports_gradient_checkpointing", False)
    with pytest.raises(TrainingError) as caught:
        checkpoint_activations(model)
    assert caught.value.failure.code is ErrorCode.BAD_CONFIG
    assert "gradient_checkpointing" in caught.value.failure.hint
