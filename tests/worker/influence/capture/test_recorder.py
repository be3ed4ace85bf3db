"""The recorder's signals against plain formulas on autograd's gradients; finite differences; the probe's manners."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.gradients import by_autograd, losses, ones, side_of
from worker.influence.capture import layer_stacks
from worker.influence.capture.per_sample_gradients import PerSampleGradients, lora_layers
from worker.influence.capture.probe_gradients import ProbeGradients, probe_losses
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import ProbeShape, plan
from worker.training.tokenization import TokenizedSample

ONE_TARGET = plan([ProbeShape(np.zeros(3, dtype=np.int64), has_reference=False)], seed=0)


def random_preconditioner(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {n: torch.rand(w.shape, generator=generator, dtype=w.dtype) + 0.1 for n, w in ones(model).items()}


def flat(
    gradients: dict[str, torch.Tensor],
    preconditioner: dict[str, torch.Tensor],
    weights: dict[str, float] | None = None,
) -> torch.Tensor:
    """sqrt(w) P g over the layers that the alignment is taken over; w is 1 / size unless given."""
    layers = [name for name in gradients if "lora_B" in name]
    w = weights or {name: 1 / gradients[name].numel() for name in layers}
    return torch.cat([w[name] ** 0.5 * gradients[name] * preconditioner[name] for name in layers])


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=0))


@pytest.fixture(params=["one by one", "side by side"])
def stacked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor, and as on a GPU, where layers are contracted side by side and long sums in parts."""
    if request.param == "side by side":
        monkeypatch.setattr(layer_stacks, "STACKED", {"cpu": 3})
        monkeypatch.setattr(layer_stacks, "TERMS", 16)


@pytest.mark.usefixtures("stacked")
def test_signals_are_the_formulas(lora_model: Any, samples: list[TokenizedSample]) -> None:
    """Two probes, the first with references; every kind of direction."""
    model = lora_model()
    shapes = [ProbeShape(np.array([0, 1, 0]), has_reference=True), ProbeShape(np.array([0, 1]), has_reference=False)]
    directions = plan(shapes, seed=1)
    items = [[samples[:3], samples[3:6]], [samples[6:8]]]
    preconditioner, at_refresh = random_preconditioner(model), ones(model)
    at_refresh = {name: p + preconditioner[name] for name, p in at_refresh.items()}
    recorder = Recorder(lora_layers(model), directions)
    sides = [[side_of(model, recorder.gradients, side) for side in own] for own in items]
    assert recorder.set_directions(sides, at_refresh) is None
    rows = [40, 2, 7, 5]
    with recorder.batch(rows, preconditioner, batch_size=4):
        (losses(model, samples[:4]).sum() / 4).backward()
    recorder.end_step(learning_rate=0.1, clip=0.5)
    observations, steps = recorder.result()
    product, norm = recorder.products()
    assert observations.row.tolist() == rows
    assert (steps.learning_rate[0], steps.clip[0], steps.batch_size[0], steps.block[0]) == (0.1, 0.5, 4, 0)

    own_items = [[by_autograd(model, item) for side in own for item in side] for own in items]
    columns = []
    for number, gradients in enumerate(own_items):
        for row in directions.coefficients[number]:
            columns.append({n: sum(c * g[n] for c, g in zip(row, gradients, strict=True)) for n in gradients[0]})
    order = np.concatenate([directions.of_probe(number) for number in range(2)])
    assert observations.alignment.shape == (4, len(directions))
    assert observations.effect.shape == (4, 3)
    for number in range(4):
        truth = by_autograd(model, samples[number])
        assert norm[number] == pytest.approx(float(torch.cat(list(truth.values())).norm()), rel=1e-9)
        for column, direction in zip(order, columns, strict=True):
            expected = cosine(flat(direction, at_refresh), flat(truth, at_refresh))
            assert observations.alignment[number, column] == pytest.approx(expected, rel=1e-8, abs=1e-12)
            if column < directions.targets:
                effect = sum(float((direction[n] * preconditioner[n] * g).sum()) for n, g in truth.items())
                assert observations.effect[number, column] == pytest.approx(effect, rel=1e-9)
                plain = sum(float((direction[n] * g).sum()) for n, g in truth.items())
                assert product[number, column] == pytest.approx(plain, rel=1e-9)
    for number, gradients in enumerate(own_items):
        found = recorder.item_alignment[0][number]
        mine = [columns[i] for i in np.flatnonzero(directions.probe[order] == number)]
        expected_items = [[cosine(flat(d, at_refresh), flat(g, at_refresh)) for d in mine] for g in gradients]
        np.testing.assert_allclose(found, expected_items, rtol=1e-8, atol=1e-12)


@pytest.mark.usefixtures("stacked")
def test_layers_count_as_held_out_items_stand_out_from_the_samples_drawn(
    lora_model: Any, samples: list[TokenizedSample]
) -> None:
    model = lora_model()
    directions = plan([ProbeShape(np.array([0, 1, 1]), has_reference=True)], seed=1)
    preconditioner = random_preconditioner(model)
    recorder = Recorder(lora_layers(model), directions)
    unwanted = [samples[0], samples[8], samples[1]]  # the first two are the same, in different folds
    sides = [[side_of(model, recorder.gradients, items) for items in (unwanted, samples[5:8])]]
    recorder.set_directions(sides, preconditioner)
    for rows in ([2, 3, 4], [5, 6]):
        with recorder.batch(rows, preconditioner, batch_size=len(rows)):
            (losses(model, [samples[row] for row in rows]).sum() / len(rows)).backward()
        recorder.end_step(learning_rate=0.1, clip=1.0)
    recorder.set_directions(sides, preconditioner)
    with recorder.batch([7], preconditioner, batch_size=1):
        losses(model, samples[7:8]).sum().backward()
    recorder.end_step(learning_rate=0.1, clip=1.0)
    found = recorder.result()[0].alignment[-1]

    truth = [by_autograd(model, sample) for sample in samples]
    items = [truth[0], truth[8], truth[1], *truth[5:8]]
    columns = [
        {n: sum(c * g[n] for c, g in zip(row, items, strict=True)) for n in items[0]}
        for row in directions.coefficients[0]
    ]
    layers = [name for name in truth[0] if "lora_B" in name]

    def standing(name: str, chosen: Sequence[int]) -> float:
        def in_layer(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
            return cosine(a[name] * preconditioner[name], b[name] * preconditioner[name])

        drawn = np.array([in_layer(truth[row], columns[0]) for row in range(2, 7)])
        held_out = [in_layer(items[i], columns[directions.held_out[0][0, i]]) for i in chosen]
        return max(0.0, float((np.mean(held_out) - drawn.mean()) / drawn.std())) / truth[0][name].numel()

    for column, direction in enumerate(columns):
        # The direction that leaves a fold out is seen in layers that the other fold has chosen.
        chosen = [i for i in range(3) if column not in directions.held_out[0][:, i]]
        weights = {name: standing(name, chosen) for name in layers}
        assert max(weights.values()) > 0
        expected = cosine(flat(direction, preconditioner, weights), flat(truth[7], preconditioner, weights))
        assert found[column] == pytest.approx(expected, rel=1e-6, abs=1e-10)


@pytest.mark.usefixtures("stacked")
def test_a_second_refresh_tells_how_far_the_targets_turned(lora_model: Any, samples: list[TokenizedSample]) -> None:
    model = lora_model()
    recorder = Recorder(lora_layers(model), ONE_TARGET)
    preconditioner = random_preconditioner(model)
    old, new = (side_of(model, recorder.gradients, items) for items in (samples[:3], samples[2:5]))
    recorder.set_directions([[old]], preconditioner)
    turned = recorder.set_directions([[new]], preconditioner)
    assert turned is not None
    assert turned[0] == pytest.approx(cosine(flat(old.mean, preconditioner), flat(new.mean, preconditioner)), rel=1e-9)
    same = recorder.set_directions([[new]], preconditioner)
    assert same is not None
    assert same[0] == pytest.approx(1.0, rel=1e-9)


def test_directions_kept_in_bfloat16_change_the_alignment_by_a_hair(
    lora_model: Any, samples: list[TokenizedSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for kept in ({}, {"cpu": torch.bfloat16}):
        monkeypatch.setattr(layer_stacks, "KEPT", kept)
        model = lora_model(dtype=torch.float32)
        recorder = Recorder(lora_layers(model), plan([ProbeShape(np.array([0, 1, 0]), has_reference=True)], seed=1))
        sides = [side_of(model, recorder.gradients, items) for items in (samples[:3], samples[3:6])]
        recorder.set_directions([sides], random_preconditioner(model))
        with recorder.batch([6, 7, 0], random_preconditioner(model), batch_size=3):
            (losses(model, [*samples[6:8], samples[0]]).sum() / 3).backward()
        recorder.end_step(learning_rate=1.0, clip=1.0)
        found.append(recorder.result()[0])
    whole, rounded = found
    assert np.abs(whole.alignment - rounded.alignment).max() > 0
    np.testing.assert_allclose(rounded.alignment, whole.alignment, rtol=0, atol=2e-3)
    np.testing.assert_array_equal(rounded.effect, whole.effect)


def test_signals_do_not_depend_on_micro_batches(lora_model: Any, samples: list[TokenizedSample]) -> None:
    results = []
    for size in (1, 3, len(samples)):
        model = lora_model()
        recorder = Recorder(lora_layers(model), ONE_TARGET)
        recorder.set_directions([[side_of(model, recorder.gradients, samples[:3])]], ones(model))
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            with recorder.batch(range(start, start + len(part)), ones(model), batch_size=len(samples)):
                (losses(model, part).sum() / len(samples)).backward()
        recorder.end_step(learning_rate=1.0, clip=1.0)
        results.append(recorder.result()[0])
    for other in results[1:]:
        np.testing.assert_allclose(other.effect, results[0].effect, rtol=1e-9)
        np.testing.assert_allclose(other.alignment, results[0].alignment, rtol=1e-9)


def test_effect_predicts_the_change_of_the_probe_loss(lora_model: Any, samples: list[TokenizedSample]) -> None:
    """Finite difference of Q along P g: an independent truth for the sign and the size of s."""
    model = lora_model()
    probe = samples[5:8]
    layers = lora_layers(model)
    preconditioner = random_preconditioner(model)
    recorder = Recorder(layers, ONE_TARGET)
    recorder.set_directions([[side_of(model, recorder.gradients, probe)]], ones(model))
    with recorder.batch([0], preconditioner, batch_size=1):
        losses(model, samples[:1]).sum().backward()
    recorder.end_step(learning_rate=1.0, clip=1.0)
    signal = recorder.result()[0].effect[0, 0]

    own = by_autograd(model, samples[0])
    eta = 1e-5

    def loss_after(sign: float) -> float:
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight -= sign * eta * (preconditioner[name] * own[name]).view_as(layer.weight)
            value = float(losses(model, probe).mean())
            for name, layer in layers.items():
                layer.weight += sign * eta * (preconditioner[name] * own[name]).view_as(layer.weight)
        return value

    fall = (loss_after(-1) - loss_after(+1)) / (2 * eta)
    assert abs(signal) > 1e-6
    assert signal == pytest.approx(fall, rel=1e-5)


def test_a_draw_without_preconditioner_has_no_signal(lora_model: Any, samples: list[TokenizedSample]) -> None:
    model = lora_model()
    recorder = Recorder(lora_layers(model), ONE_TARGET)
    with pytest.raises(RuntimeError, match="set_directions"), recorder.batch([0], ones(model), batch_size=1):
        pass
    with recorder.batch([3], None, batch_size=1):
        losses(model, samples[:1]).sum().backward()
    recorder.end_step(learning_rate=1.0, clip=1.0)
    observations, _ = recorder.result()
    assert observations.row.tolist() == [3]
    assert np.isnan(observations.effect).all()
    assert np.isnan(observations.alignment).all()


def test_a_layer_that_saw_no_backward_pass_is_an_error(lora_model: Any, samples: list[TokenizedSample]) -> None:
    model = lora_model()
    recorder = Recorder(lora_layers(model), ONE_TARGET)
    recorder.set_directions([[side_of(model, recorder.gradients, samples[:3])]], ones(model))
    with pytest.raises(RuntimeError, match="of 28 LoRA layers"), recorder.batch([0], ones(model), batch_size=1):
        model.eval()


def test_rows_that_do_not_fit_the_batch_are_an_error(lora_model: Any, samples: list[TokenizedSample]) -> None:
    model = lora_model()
    recorder = Recorder(lora_layers(model), ONE_TARGET)
    recorder.set_directions([[side_of(model, recorder.gradients, samples[:3])]], ones(model))
    with (
        pytest.raises(RuntimeError, match="batch of 2 for 3 rows"),
        recorder.batch([0, 1, 2], ones(model), batch_size=3),
    ):
        losses(model, samples[:2]).sum().backward()


def test_the_probe_leaves_no_trace(lora_model: Any, samples: list[TokenizedSample]) -> None:
    model = lora_model(dropout=0.5)
    model.train()
    model.get_base_model().lm_head.eval()
    modes = [m.training for m in model.modules()]
    layer = next(iter(lora_layers(model).values()))
    layer.weight.grad = torch.full_like(layer.weight, 2.0)
    state = torch.random.get_rng_state()
    gradients = PerSampleGradients(lora_layers(model))
    first = side_of(model, gradients, samples[:3]).mean
    torch.manual_seed(99)
    second = side_of(model, gradients, samples[:3]).mean
    losses_alone = probe_losses(model, [([0, 1], partial(losses, model, samples[:2]))])
    torch.random.set_rng_state(state)
    assert losses_alone.requires_grad is False
    for name in first:  # dropout is off, so the random state does not matter
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(layer.weight.grad, torch.full_like(layer.weight, 2.0))
    assert sum(p.grad is not None for p in model.parameters()) == 1


def test_the_probe_gradients_are_autograd_of_each_loss_and_of_the_mean(
    lora_model: Any, samples: list[TokenizedSample]
) -> None:
    model = lora_model()
    found = side_of(model, PerSampleGradients(lora_layers(model)), samples[:5])
    truth = [by_autograd(model, sample) for sample in samples[:5]]
    for name, gradient in found.mean.items():
        torch.testing.assert_close(gradient, torch.stack([t[name] for t in truth]).mean(0), rtol=1e-9, atol=1e-12)
    assert set(found.items) == {name for name in found.mean if "lora_B" in name}
    for name, gradients in found.items.items():
        torch.testing.assert_close(gradients, torch.stack([t[name] for t in truth]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.losses, losses(model, samples[:5]).detach())
    reversed_items = [
        ([4, 2], partial(losses, model, [samples[4], samples[2]])),
        ([0, 1, 3], partial(losses, model, [samples[i] for i in (0, 1, 3)])),
    ]
    torch.testing.assert_close(probe_losses(model, reversed_items), found.losses)


def test_no_probe_is_held_while_the_next_is_measured(lora_model: Any, samples: list[TokenizedSample]) -> None:
    model = lora_model()
    shapes = [ProbeShape(np.array([0, 1, 0]), has_reference=True), ProbeShape(np.array([0, 1]), has_reference=False)]
    held: list[weakref.ref[ProbeGradients]] = []

    def measured() -> Iterator[list[ProbeGradients]]:
        for items in ([samples[:3], samples[3:6]], [samples[6:8]]):
            assert [one() for one in held] == [None] * len(held)
            sides = [side_of(model, recorder.gradients, own) for own in items]
            held.extend(weakref.ref(side) for side in sides)
            yield sides
            del sides

    recorder = Recorder(lora_layers(model), plan(shapes, seed=1))
    recorder.set_directions(measured(), ones(model))
    assert len(held) == 3
    at_once = Recorder(lora_layers(lora_model()), plan(shapes, seed=1))
    at_once.set_directions(
        [
            [side_of(model, recorder.gradients, own) for own in items]
            for items in ([samples[:3], samples[3:6]], [samples[6:8]])
        ],
        ones(model),
    )
    for ours, theirs in zip(recorder.item_alignment[0], at_once.item_alignment[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("sides", [1, 3])
def test_sides_that_the_plan_does_not_have_are_refused(
    lora_model: Any, samples: list[TokenizedSample], sides: int
) -> None:
    model = lora_model()
    recorder = Recorder(lora_layers(model), plan([ProbeShape(np.array([0, 1, 0]), has_reference=True)], seed=1))
    found = [side_of(model, recorder.gradients, samples[:3]) for _ in range(sides)]
    with pytest.raises(ValueError, match="the plan has"):
        recorder.set_directions([found], ones(model))


@pytest.mark.parametrize("kept", [{}, {"cpu": torch.bfloat16}])
def test_what_is_held_is_known_before_it_is(
    lora_model: Any, samples: list[TokenizedSample], monkeypatch: pytest.MonkeyPatch, kept: dict[str, torch.dtype]
) -> None:
    """The bytes of what a refresh leaves, and of the items of a probe."""
    monkeypatch.setattr(layer_stacks, "KEPT", kept)
    model = lora_model(dtype=torch.float32)
    recorder = Recorder(lora_layers(model), plan([ProbeShape(np.array([0, 1, 0]), has_reference=True)], seed=1))
    sides = [side_of(model, recorder.gradients, items) for items in (samples[:3], samples[3:6])]
    preconditioner = ones(model)
    recorder.set_directions([sides], preconditioner)
    held = recorder.state_dict()["in_force"]

    def size(*parts: Mapping[str, torch.Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for part in parts for tensor in part.values())

    targets, square = size(held["targets"]), size(held["square"])
    assert recorder.held_bytes() == targets + square + size(held["aligned"], preconditioner)
    assert recorder.measuring_bytes() == 2 * (targets + square) + size(
        held["aligned"], preconditioner, *(side.mean for side in sides), *(side.items for side in sides)
    )
