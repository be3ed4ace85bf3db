"""The split over tokens against autograd of each token's loss alone, and its sum against what the recorder records."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from service.contract.protocol import NoticeEvent
from tests.support.gradients import losses, ones, side_of
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import Kind, ProbeShape, plan
from worker.training.batches import collate
from worker.training.passes import Passes
from worker.training.token_values import WHAT, NotDifferentiableError, token_values
from worker.training.tokenization import IGNORED, TokenizedSample

CPU = torch.device("cpu")
DIRECTIONS = plan(
    [ProbeShape(np.array([0, 1, 0]), has_reference=True), ProbeShape(np.array([0, 1]), has_reference=False)], seed=1
)


def some_preconditioner(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {n: 1e3 * (torch.rand(w.shape, generator=generator, dtype=w.dtype) + 0.1) for n, w in ones(model).items()}


def recording(model: Any, samples: list[TokenizedSample]) -> tuple[Recorder, dict[str, torch.Tensor]]:
    """A recorder that has measured two probes, and has learned weights of the layers from some draws."""
    recorder, preconditioner = Recorder(lora_layers(model), DIRECTIONS), some_preconditioner(model)
    items = [[samples[:3], samples[3:6]], [samples[6:8]]]
    sides = [[side_of(model, recorder.gradients, side) for side in own] for own in items]
    recorder.set_directions(sides, preconditioner)
    draw(recorder, model, preconditioner, samples[2:5])
    recorder.set_directions(sides, preconditioner)
    return recorder, preconditioner


def draw(recorder: Recorder, model: Any, preconditioner: dict[str, torch.Tensor], drawn: list[TokenizedSample]) -> None:
    with recorder.batch(range(len(drawn)), preconditioner, batch_size=len(drawn)):
        (losses(model, drawn).sum() / len(drawn)).backward()
    model.zero_grad(set_to_none=True)
    recorder.end_step(learning_rate=0.1, clip=1.0)


def metric(recorder: Recorder, column: int) -> dict[str, torch.Tensor]:
    """w P^2 of each layer that the alignment is over."""
    active = recorder._active
    assert active is not None
    return {name: active.square[name] * active.weights[active.layer[name], column] for name in active.layer}


def gradient_of(model: Any, loss: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    layers = lora_layers(model)
    found = torch.autograd.grad(loss, [layers[name].weight for name in names], retain_graph=True)
    return {name: own.flatten() for name, own in zip(names, found, strict=True)}


def token_losses(model: Any, sample: TokenizedSample) -> torch.Tensor:
    """Written down once more: -log p of each labelled token, of the sample alone."""
    batch = collate([sample], pad=0, device=CPU)
    logits = model(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).logits[0, :-1]
    targets = batch.labels[0, 1:]
    kept = targets != IGNORED
    return -logits.log_softmax(-1)[kept].gather(1, targets[kept][:, None])[:, 0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("at_once", [8, 2])
def test_a_token_s_value_is_the_derivative_of_its_loss_and_the_sum_is_the_alignment(
    lora_model: Callable[..., Any],
    samples: list[TokenizedSample],
    attention: str,
    at_once: int,
) -> None:
    # Plain attention forms its softmax in float32, whatever it is given.
    precision = 1e-6 if attention == "eager" else 1e-8
    model = lora_model()
    model.base_model.model.set_attn_implementation(attention)
    recorder, preconditioner = recording(model, samples)
    for probe in (0, 1):
        column = int(DIRECTIONS.columns(probe, Kind.UNWANTED)[0])
        direction = recorder.unit_direction(column)
        passes = Passes(WHAT, samples=at_once, device=CPU)
        values = token_values(model, direction, samples, pad=0, device=CPU, passes=passes)

        draw(recorder, model, preconditioner, samples)
        alignment = recorder.result()[0].alignment[-len(samples) :, column]
        weight = metric(recorder, column)
        assert any(float(own.abs().max()) > 0 for own in weight.values())
        for sample, own, recorded in zip(samples, values, alignment, strict=True):
            each = token_losses(model, sample)
            assert len(own) == len(each) == sample.count_with_loss
            expected = []
            for loss in each:
                gradient = gradient_of(model, loss, list(direction))
                expected.append(sum(float((direction[n] * g).sum()) for n, g in gradient.items()) / len(each))
            np.testing.assert_allclose(own, expected, rtol=precision, atol=precision * np.abs(expected).max())
            whole = gradient_of(model, each.mean(), list(direction))
            norm = sum(float((weight[n] * g.square()).sum()) for n, g in whole.items()) ** 0.5
            assert own.sum() / norm == pytest.approx(recorded, rel=precision, abs=precision)
            assert abs(recorded) > 1e-4


def test_where_memory_suffices_for_one_sample_at_a_time(
    lora_model: Callable[..., Any], samples: list[TokenizedSample]
) -> None:
    model = lora_model()
    recorder, _ = recording(model, samples)
    direction = recorder.unit_direction(int(DIRECTIONS.columns(0, Kind.UNWANTED)[0]))
    expected = token_values(model, direction, samples, pad=0, device=CPU)

    def refuse(_model: Any, _args: Any, kwargs: Any) -> None:
        if len(kwargs["input_ids"]) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    told = list[NoticeEvent]()
    found = token_values(
        model, direction, samples, pad=0, device=CPU,
        passes=Passes(WHAT, samples=8, device=CPU, tell=told.append),
    )  # fmt: skip
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())
    assert [notice.code for notice in told] == ["passes_halved"]
    assert WHAT in told[0].message


def test_nothing_of_the_run_changes(lora_model: Callable[..., Any], samples: list[TokenizedSample]) -> None:
    """Weights, `.grad`, modes, random states, and what is recorded afterwards; with dropout."""
    seen = []
    for with_split in (False, True):
        model = lora_model(dropout=0.3, dtype=torch.float32)
        model.train()
        recorder, preconditioner = recording(model, samples)
        torch.manual_seed(5)
        if with_split:
            column = int(DIRECTIONS.columns(0, Kind.UNWANTED)[0])
            values = token_values(model, recorder.unit_direction(column), samples, pad=0, device=CPU)
            again = token_values(model, recorder.unit_direction(column), samples, pad=0, device=CPU)
            assert all(np.array_equal(one, other) for one, other in zip(values, again, strict=True))
        assert all(p.grad is None for p in model.parameters())
        assert all(module.training for module in model.modules())
        draw(recorder, model, preconditioner, samples)
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        seen.append((weights, torch.random.get_rng_state(), recorder.result()[0]))
    (weights, random, observed), (weights_with, random_with, observed_with) = seen
    assert all(torch.equal(own, weights_with[name]) for name, own in weights.items())
    assert torch.equal(random, random_with)
    np.testing.assert_array_equal(observed.alignment, observed_with.alignment)
    np.testing.assert_array_equal(observed.effect, observed_with.effect)


def test_half_precision_is_close(lora_model: Callable[..., Any], samples: list[TokenizedSample]) -> None:
    """A bfloat16 base with float32 adapters, against float64 of the same rounded weights."""
    precise = lora_model()
    for p in precise.parameters():
        if not p.requires_grad:
            p.data = p.data.bfloat16().double()
    low = lora_model()
    low.load_state_dict(precise.state_dict())
    for name, p in low.named_parameters():
        p.data = p.data.float() if "lora_" in name else p.data.bfloat16()
    recorder, _ = recording(precise, samples)
    direction = recorder.unit_direction(0)
    exact = np.concatenate(token_values(precise, direction, samples, pad=0, device=CPU))
    single = {name: own.float() for name, own in direction.items()}
    rounded = np.concatenate(token_values(low, single, samples, pad=0, device=CPU))
    assert np.corrcoef(exact, rounded)[0, 1] > 0.999
    assert np.abs(exact - rounded).max() < 0.03 * np.abs(exact).max()


def test_a_zero_direction_has_no_shares(lora_model: Callable[..., Any], samples: list[TokenizedSample]) -> None:
    model = lora_model()
    direction = {name: torch.zeros_like(own) for name, own in recording(model, samples)[0].unit_direction(0).items()}
    assert all(not own.any() for own in token_values(model, direction, samples, pad=0, device=CPU))


class Hidden(torch.autograd.Function):
    """Identity without a forward mode."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def test_a_model_whose_operations_have_no_forward_mode_is_refused(
    lora_model: Callable[..., Any],
    samples: list[TokenizedSample],
) -> None:
    model = lora_model()
    direction = recording(model, samples)[0].unit_direction(0)
    layer = next(module for name, module in model.named_modules() if name.endswith("up_proj"))
    handle = layer.register_forward_hook(lambda module, inputs, output: Hidden.apply(output))
    with pytest.raises(RuntimeError, match="forward"):
        token_values(model, direction, samples, pad=0, device=CPU)
    handle.remove()

    def without_tangent(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """As a kernel would do that passes torch by: the backward pass is right, the forward mode sees a constant."""
        return torch.autograd.forward_ad.unpack_dual(output).primal if not torch.is_grad_enabled() else output

    layer.register_forward_hook(without_tangent)
    with pytest.raises(NotDifferentiableError):
        token_values(model, direction, samples, pad=0, device=CPU)
