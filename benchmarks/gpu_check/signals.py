"""Per-sample gradients and signals at the model's true width, against automatic differentiation in float64."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.shapes import Shape, random_model
from benchmarks.overhead import ALL_LINEAR
from service.contract.spec import TrainingConfig
from tests.support.gradients import by_autograd, by_hooks, losses, padded, side_of
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import ProbeShape, plan
from worker.training.lora import with_lora
from worker.training.tokenization import IGNORED, TokenizedSample

LAYERS = 2
VOCABULARY = 512

EXACT = 1e-4
"""In float32: |error| beside the size of what is computed. TF32 would miss it by ten times."""

ALIGNED = 5e-3
"""Of an alignment, whose directions are kept in bfloat16 on a GPU."""

HALF = 0.1
"""With a base in bfloat16, for what rounds worst; what counts is AS_GOOD."""

AS_GOOD = 1.1
"""Times the error that automatic differentiation of one sample at a time has with the same base."""


def check_signals(report: Report, shape: Shape, device: torch.device) -> None:
    """Two layers of the true width with LoRA on all linear layers, in both types that are trained with."""
    precise = _model(shape, device)
    samples = _samples(8)
    truth = [_joined(by_autograd(precise, sample)) for sample in samples]
    names = list(lora_layers(precise))
    metric = {
        name: torch.rand(layer.weight.numel(), generator=torch.Generator().manual_seed(number)).add(0.5).to(device)
        for number, (name, layer) in enumerate(lora_layers(precise).items())
    }
    expected = _signals(precise, samples, metric)
    for dtype, gradient_bound, signal_bound in (
        (torch.float32, EXACT, EXACT),
        (torch.bfloat16, HALF, HALF),
    ):
        kind = str(dtype).removeprefix("torch.")
        model = _in(precise, dtype)
        seen = by_hooks(model, padded(samples))
        ours = [_error(torch.cat([seen[name][n] for name in names]), exact) for n, exact in enumerate(truth)]
        plain = [
            _error(_joined(by_autograd(model, sample)), exact) for sample, exact in zip(samples, truth, strict=True)
        ]
        ours_rms, plain_rms = (float(np.sqrt(np.mean(np.square(errors)))) for errors in (ours, plain))
        report.checked(
            f"per-sample gradients, base in {kind}",
            max(ours) < gradient_bound and ours_rms < max(AS_GOOD * plain_rms, EXACT / 10),
            f"{ours_rms:.1e} off float64 (at most {max(ours):.1e}); one sample at a time {plain_rms:.1e}",
            ours=ours,
            plain=plain,
        )
        signals = _signals(model, samples, metric)
        mean = torch.stack(truth[:3]).mean(0)
        scale = float(mean.norm() * max(gradient.norm() for gradient in truth))
        # <G, P g> by automatic differentiation alone.
        weighted = torch.cat([metric[name].double() for name in names])
        by_hand = np.array([float(mean @ (weighted * gradient)) for gradient in truth[6:]])
        effect = float(np.abs(signals["effect"][:, 0] - by_hand).max()) / scale
        alignment = float(np.abs(signals["alignment"] - expected["alignment"]).max())
        report.checked(
            f"signals, base in {kind}",
            effect < signal_bound and alignment < max(signal_bound, ALIGNED),
            f"effect {effect:.1e} of |G| |g| off float64, alignment {alignment:.1e}",
            effect=effect,
            alignment=alignment,
        )


def _model(shape: Shape, device: torch.device) -> Any:
    """In float64, its weights representable in bfloat16, and no LoRA layer zero."""
    base = random_model(shape, device, num_hidden_layers=LAYERS, vocab_size=VOCABULARY)
    base.to(torch.bfloat16)
    config = TrainingConfig(target_modules=ALL_LINEAR, lora_r=16 if shape.dtype == "bfloat16" else 4)
    model = with_lora(base, config).to(device).double().eval()
    generator = torch.Generator(device=device).manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            values = torch.randn(parameter.shape, generator=generator, device=device) * 0.02
            parameter.data = values.bfloat16().double()
    return model


def _in(precise: Any, dtype: torch.dtype) -> Any:
    """The same weights, the base in `dtype` and LoRA in float32."""
    model = copy.deepcopy(precise)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if "lora_" in name else dtype)
    return model


def _signals(model: Any, samples: list[TokenizedSample], metric: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Of samples 6 and 7, beside a probe of samples 0 to 2 against 3 to 5."""
    layers = lora_layers(model)
    recorder = Recorder(layers, plan([ProbeShape(np.array([0, 1, 0]), has_reference=True)], seed=1))
    own = {name: metric[name].to(layer.weight.dtype) for name, layer in layers.items()}
    try:
        sides = [side_of(model, recorder.gradients, items) for items in (samples[:3], samples[3:6])]
        recorder.set_directions([sides], own)
        with recorder.batch([6, 7], own, batch_size=2):
            (losses(model, samples[6:8]).sum() / 2).backward()
        recorder.end_step(learning_rate=1.0, clip=1.0)
        observations, _ = recorder.result()
    finally:
        recorder.remove()
        model.zero_grad(set_to_none=True)
    return {"effect": observations.effect, "alignment": observations.alignment}


def _samples(count: int) -> list[TokenizedSample]:
    generator = torch.Generator().manual_seed(5)
    found = []
    for number in range(count):
        ids = torch.randint(3, VOCABULARY, (24 + 5 * number,), generator=generator).tolist()
        found.append(TokenizedSample(tuple(ids), tuple([IGNORED] * 8 + ids[8:])))
    return found


def _joined(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat(list(gradients.values())).double()


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())
