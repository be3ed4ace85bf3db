"""The recorder's signals against plain formulas on autograd's gradients; finite differences; the probe's manners."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.worker.influence.test_gradients import CPU, by_autograd
from worker.influence.gradients import lora_layers
from worker.influence.preconditioner import adamw_preconditioner
from worker.influence.probe import probe_gradient
from worker.influence.recorder import Recorder
from worker.training.samples import Sample, collate, sample_losses


def directions_of(model: Any, probe: list[Sample]) -> dict[str, torch.Tensor]:
    weights = {name: layer.weight for name, layer in lora_layers(model).items()}
    losses = [
        lambda i=i: sample_losses(model, collate(probe[i : i + 2], pad=0, device=CPU)).sum() / len(probe)
        for i in range(0, len(probe), 2)
    ]
    return probe_gradient(model, weights, losses)[1]


def test_signals_are_the_formulas(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model()
    gradients = [directions_of(model, samples[:3]), directions_of(model, samples[3:5])]
    generator = torch.Generator().manual_seed(3)
    preconditioner = {n: torch.rand(g.shape, generator=generator, dtype=g.dtype) + 0.1 for n, g in gradients[0].items()}
    recorder = Recorder(lora_layers(model), directions=2)
    recorder.set_directions(gradients)
    rows = [40, 2, 7, 5]
    with recorder.batch(rows, preconditioner, batch_size=4):
        (sample_losses(model, collate(samples[:4], pad=0, device=CPU)).sum() / 4).backward()
    recorder.end_step(learning_rate=0.1, clip=0.5)
    observations, steps = recorder.result()
    assert observations.row.tolist() == rows
    assert (steps.learning_rate[0], steps.clip[0], steps.batch_size[0], steps.block[0]) == (0.1, 0.5, 4, 0)
    for number in range(4):
        truth = by_autograd(model, samples[number])
        for k, direction in enumerate(gradients):
            effect = sum(float((direction[n] * preconditioner[n] * g).sum()) for n, g in truth.items())
            both = [torch.cat([v[n] * preconditioner[n] for n in truth if "lora_B" in n]) for v in (direction, truth)]
            cosine = float(torch.cosine_similarity(*both, dim=0))
            assert observations.effect[number, k] == pytest.approx(effect, rel=1e-9)
            assert observations.alignment[number, k] == pytest.approx(cosine, rel=1e-9)


def test_signals_do_not_depend_on_micro_batches(lora_model: Any, samples: list[Sample]) -> None:
    results = []
    for size in (1, 3, len(samples)):
        model = lora_model()
        gradient = directions_of(model, samples[:3])
        recorder = Recorder(lora_layers(model), directions=1)
        recorder.set_directions([gradient])
        ones = {name: torch.ones_like(g) for name, g in gradient.items()}
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            with recorder.batch(range(start, start + len(part)), ones, batch_size=len(samples)):
                (sample_losses(model, collate(part, pad=0, device=CPU)).sum() / len(samples)).backward()
        recorder.end_step(learning_rate=1.0, clip=1.0)
        results.append(recorder.result()[0])
    for other in results[1:]:
        np.testing.assert_allclose(other.effect, results[0].effect, rtol=1e-9)
        np.testing.assert_allclose(other.alignment, results[0].alignment, rtol=1e-9)


def test_effect_predicts_the_change_of_the_probe_loss(lora_model: Any, samples: list[Sample]) -> None:
    """Finite difference of Q along P g: an independent truth for the sign and the size of s."""
    model = lora_model()
    probe = samples[5:8]
    gradient = directions_of(model, probe)
    layers = lora_layers(model)
    generator = torch.Generator().manual_seed(4)
    preconditioner = {n: torch.rand(g.shape, generator=generator, dtype=g.dtype) for n, g in gradient.items()}
    recorder = Recorder(layers, directions=1)
    recorder.set_directions([gradient])
    with recorder.batch([0], preconditioner, batch_size=1):
        sample_losses(model, collate(samples[:1], pad=0, device=CPU)).sum().backward()
    recorder.end_step(learning_rate=1.0, clip=1.0)
    signal = recorder.result()[0].effect[0, 0]

    own = by_autograd(model, samples[0])
    eta = 1e-5

    def loss_after(sign: float) -> float:
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight -= sign * eta * (preconditioner[name] * own[name]).view_as(layer.weight)
            value = float(sample_losses(model, collate(probe, pad=0, device=CPU)).mean())
            for name, layer in layers.items():
                layer.weight += sign * eta * (preconditioner[name] * own[name]).view_as(layer.weight)
        return value

    fall = (loss_after(-1) - loss_after(+1)) / (2 * eta)
    assert abs(signal) > 1e-6
    assert signal == pytest.approx(fall, rel=1e-5)


def test_a_draw_without_preconditioner_has_no_signal(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model()
    recorder = Recorder(lora_layers(model), directions=1)
    with pytest.raises(RuntimeError, match="set_directions"), recorder.batch([0], None, batch_size=1):
        pass
    recorder.set_directions([directions_of(model, samples[:2])])
    with recorder.batch([3], None, batch_size=1):
        sample_losses(model, collate(samples[:1], pad=0, device=CPU)).sum().backward()
    recorder.end_step(learning_rate=1.0, clip=1.0)
    observations, _ = recorder.result()
    assert observations.row.tolist() == [3]
    assert np.isnan(observations.effect).all()
    assert np.isnan(observations.alignment).all()


def test_a_layer_that_saw_no_backward_pass_is_an_error(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model()
    recorder = Recorder(lora_layers(model), directions=1)
    gradient = directions_of(model, samples[:2])
    recorder.set_directions([gradient])
    with pytest.raises(RuntimeError, match="of 28 LoRA layers"), recorder.batch([0], gradient, batch_size=1):
        model.eval()


def test_the_probe_leaves_no_trace(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model(dropout=0.5)
    model.train()
    model.get_base_model().lm_head.eval()
    modes = [m.training for m in model.modules()]
    layer = next(iter(lora_layers(model).values()))
    layer.weight.grad = torch.full_like(layer.weight, 2.0)
    state = torch.random.get_rng_state()
    first = directions_of(model, samples[:3])
    torch.manual_seed(99)
    second = directions_of(model, samples[:3])
    torch.random.set_rng_state(state)
    for name in first:  # dropout is off, so the random state does not matter
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(layer.weight.grad, torch.full_like(layer.weight, 2.0))
    assert sum(p.grad is not None for p in model.parameters()) == 1


def test_the_probe_gradient_is_autograd_of_the_mean_loss(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model()
    found = directions_of(model, samples[:5])
    truth = [by_autograd(model, sample) for sample in samples[:5]]
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, torch.stack([t[name] for t in truth]).mean(0), rtol=1e-9, atol=1e-12)


def test_preconditioner_is_what_adamw_applies(lora_model: Any, samples: list[Sample]) -> None:
    model = lora_model()
    layers = lora_layers(model)
    weights = {name: layer.weight for name, layer in layers.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=0.01, betas=(0.0, 0.99), weight_decay=0.0)
    assert adamw_preconditioner(optimizer, weights) is None
    for step in range(4):
        sample_losses(model, collate(samples[step : step + 3], pad=0, device=CPU)).mean().backward()
        gradient = {name: w.grad.clone() for name, w in weights.items() if w.grad is not None}
        before = {name: w.detach().clone() for name, w in weights.items()}
        optimizer.step()
        optimizer.zero_grad()
        applied = adamw_preconditioner(optimizer, weights)
        assert applied is not None
        for name, weight in weights.items():  # without momentum the step is -lr P g
            expected = before[name].flatten() - 0.01 * applied[name] * gradient[name].flatten()
            torch.testing.assert_close(weight.detach().flatten(), expected, rtol=1e-9, atol=1e-12)


def test_preconditioner_is_zero_where_no_gradient_was_seen() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.tensor([1.0, 0.0])
    optimizer.step()
    found = adamw_preconditioner(optimizer, {"w": weight})
    assert found is not None
    assert found["w"][1] == 0
    assert found["w"][0] == pytest.approx(1.0, rel=1e-6)
