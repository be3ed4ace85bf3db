"""Per-sample gradients under every way to run a pass: padding, dropout, checkpointing, precision, micro-batches."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.gradients import (
    assert_bfloat16_base_is_close,
    assert_equal_autograd,
    by_autograd,
    by_hooks,
    mean_token_losses,
    padded,
)
from worker.influence.capture.per_sample_gradients import PerSampleGradients, lora_layers
from worker.training.tokenization import IGNORED, TokenizedSample


@contextmanager
def drawn_masks(model: Any) -> Iterator[dict[str, Tensor]]:
    """The dropout masks that the block's forward pass draws, by module, each already divided by the keep rate."""
    masks: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def note(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            kept = torch.where(inputs[0] == 0, torch.zeros_like(output), output / inputs[0])
            assert name not in masks or torch.equal(masks[name], kept)  # a recomputation draws the same again
            masks[name] = kept.detach()

        return note

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, nn.Dropout)]
    yield masks
    for handle in handles:
        handle.remove()


@contextmanager
def fixed_masks(model: Any, masks: dict[str, Tensor], sample: int, length: int) -> Iterator[None]:
    """Within the block dropout multiplies with the masks that were drawn for one sample of a right-padded batch."""
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, i, o, mask=mask: i[0] * mask[sample, :length])
        for name, mask in masks.items()
    ]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
def test_dropout_and_checkpointing(lora_model: Any, samples: list[TokenizedSample], checkpointing: str) -> None:
    """Each sample alone under the very masks that it got in the batch."""
    model = lora_model(dropout=0.3)
    model.train()
    if checkpointing != "none":
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
    with drawn_masks(model) as masks:
        seen = by_hooks(model, padded(samples))
    assert all(0.2 < float((mask[:, :5] == 0).double().mean()) < 0.4 for mask in masks.values())  # padding is zero
    assert len(masks) == len(seen) / 2
    model.gradient_checkpointing_disable()
    for number, sample in enumerate(samples):
        with fixed_masks(model, masks, number, len(sample.ids)):
            truth = by_autograd(model, sample)
        assert truth.keys() == seen.keys()
        for name, gradient in truth.items():
            torch.testing.assert_close(seen[name][number], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_still_drops_the_activations(
    lora_model: Any, samples: list[TokenizedSample], reentrant: bool
) -> None:
    """A hook that held its input from the first forward pass would undo what checkpointing is for."""
    model = lora_model()
    model.train()
    model.enable_input_require_grads()
    held: list[Any] = []
    layer = next(m for n, m in lora_layers(model).items() if "down_proj.lora_A" in n)
    layer.register_forward_pre_hook(lambda m, inputs: held.append(weakref.ref(inputs[0].untyped_storage())))
    watched = PerSampleGradients(lora_layers(model))

    def alive_after_forward() -> bool:
        held.clear()
        with watched.observe(lambda name, gradient: None, scale=1.0):
            loss = mean_token_losses(model, padded(samples[:3])).sum()
            alive = held[0]() is not None
            loss.backward()
        return alive

    assert alive_after_forward()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert not alive_after_forward()
    assert len(held) == 2  # it was computed twice


def test_the_tap_keeps_no_second_copy(lora_model: Any, samples: list[TokenizedSample]) -> None:
    """What the hooks hold for the backward pass is the storage that autograd holds anyway."""
    model = lora_model()
    watched = PerSampleGradients(lora_layers(model))

    def stored(observed: bool) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        context = watched.observe(lambda name, gradient: None, scale=1.0) if observed else nullcontext()
        with context, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = mean_token_losses(model, padded(samples[:3])).sum()
            total = sum(storages.values())
            loss.backward()
        return total

    assert stored(observed=True) == stored(observed=False)


def test_do_not_depend_on_batch_padding_or_scale(lora_model: Any, samples: list[TokenizedSample]) -> None:
    model = lora_model()
    together = by_hooks(model, padded(samples))
    for number, sample in enumerate(samples[:4]):
        alone = by_hooks(model, padded([sample]))
        other = by_hooks(model, padded([sample, samples[2]], length=61, pad=77), divisor=64.0)
        for name, gradient in together.items():
            assert alone[name].shape[0] == 1
            torch.testing.assert_close(alone[name][0], gradient[number], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(other[name][0], gradient[number], rtol=1e-9, atol=1e-12)


def test_do_not_depend_on_the_padding_side(lora_model: Any, samples: list[TokenizedSample]) -> None:
    model = lora_model()
    right, left = (by_hooks(model, padded(samples[:2], left=left)) for left in (False, True))
    for name, gradient in right.items():
        # Llama keeps the rotary angles of absolute positions in float32, and padding on the left shifts them.
        torch.testing.assert_close(left[name], gradient, rtol=1e-5, atol=2e-8)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_do_not_depend_on_micro_batches(lora_model: Any, samples: list[TokenizedSample], size: int) -> None:
    model = lora_model()
    parts = [by_hooks(model, padded(samples[i : i + size]), divisor=9.0) for i in range(0, len(samples), size)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    assert_equal_autograd(model, samples, joined)


def test_a_sample_without_labels_has_no_gradient_and_disturbs_none(
    lora_model: Any, samples: list[TokenizedSample]
) -> None:
    model = lora_model()
    silent = TokenizedSample(samples[3].ids, tuple([IGNORED] * len(samples[3].ids)))
    seen = by_hooks(model, padded([samples[0], silent, samples[1]]))
    assert all(bool((gradient[1] == 0).all()) for gradient in seen.values())
    assert_equal_autograd(model, [samples[0]], seen)
    only_silent = by_hooks(model, padded([silent]))
    assert all(bool((gradient == 0).all()) for gradient in only_silent.values())


def test_a_loss_that_weighs_samples_unequally_is_undone(lora_model: Any, samples: list[TokenizedSample]) -> None:
    """The mean over all tokens of a batch, as the Hugging Face Trainer takes it."""
    model = lora_model()
    tokens = padded(samples[:5])
    count = (tokens.labels[:, 1:] != IGNORED).sum(1)
    seen: dict[str, Tensor] = {}
    watched = PerSampleGradients(lora_layers(model))
    with watched.rescaled(count.sum() / count.double() / 5), watched.observe(seen.__setitem__, scale=5.0):
        ((mean_token_losses(model, tokens) * count).sum() / count.sum()).backward()
    assert_equal_autograd(model, samples[:5], seen)


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_training_is_bit_equal_and_the_mean_is_the_gradient_that_trains(
    lora_model: Any, samples: list[TokenizedSample], checkpointing: bool | None
) -> None:
    """Watched or not: loss, random state and every gradient; and what is seen averages to it."""
    found = []
    for watch in (False, True):
        model = lora_model(dtype=torch.float32, dropout=0.3)
        model.train()
        if checkpointing is not None:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        layers, tokens = lora_layers(model), padded(samples)
        watched, seen = PerSampleGradients(layers), {}
        torch.manual_seed(5)
        with watched.observe(seen.__setitem__, scale=9.0) if watch else nullcontext():
            loss = mean_token_losses(model, tokens).sum() / 9
            loss.backward()
        found.append((loss.detach(), torch.rand(3), {n: layer.weight.grad for n, layer in layers.items()}, seen))
    (plain_loss, plain_state, plain, _), (loss, state, gradients, seen) = found
    assert torch.equal(plain_loss, loss)
    assert torch.equal(plain_state, state)
    for name, gradient in plain.items():
        assert torch.equal(gradient, gradients[name]), name
        torch.testing.assert_close(seen[name].mean(0), gradient.flatten(), rtol=1e-4, atol=1e-6)


def test_a_bfloat16_base_stays_within_five_percent_and_adds_nothing_to_autograd(
    lora_model: Any, samples: list[TokenizedSample]
) -> None:
    """The error is that of the bfloat16 pass itself."""
    assert_bfloat16_base_is_close(lora_model, samples, torch.device("cpu"))


@pytest.mark.parametrize("backward_inside", [False, True])
def test_autocast_computes_what_autograd_computes_under_autocast(
    lora_model: Any, samples: list[TokenizedSample], backward_inside: bool
) -> None:
    """Mixed precision: layers see a rounded copy of their input. The products are still summed in float32."""
    model = lora_model(dtype=torch.float32)
    layers, tokens, seen = lora_layers(model), padded(samples), {}
    watched = PerSampleGradients(layers)
    with watched.observe(seen.__setitem__, scale=9.0), torch.autocast("cpu", torch.bfloat16):
        loss = mean_token_losses(model, tokens).sum() / 9
        with nullcontext() if backward_inside else torch.autocast("cpu", enabled=False):
            loss.backward()
    watched.remove()
    for name, layer in layers.items():
        assert seen[name].dtype == torch.float32
        assert layer.weight.grad is not None
        # autograd rounds its own sum to bfloat16, which keeps 8 bits.
        scale = float(layer.weight.grad.abs().max())
        torch.testing.assert_close(
            seen[name].mean(0), layer.weight.grad.flatten(), rtol=2**-7, atol=2**-9 * scale, msg=lambda m: m
        )


def test_nothing_is_read_back_from_the_device(lora_model: Any, samples: list[TokenizedSample]) -> None:
    """No layer may make the processor wait: not one value is read, and not one tensor changes device."""
    model = lora_model()
    watched, tokens = PerSampleGradients(lora_layers(model)), padded(samples[:3])

    class Reads(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.name().startswith(("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")):
                self.calls.append(func.name())
            if (kwargs or {}).get("device") is not None and func.name().startswith("aten::_to_copy"):
                self.calls.append(func.name())
            return func(*args, **(kwargs or {}))

    calls = []
    for observed in (False, True):
        context = watched.observe(lambda name, gradient: None, scale=3.0) if observed else nullcontext()
        with Reads() as reads, context:
            mean_token_losses(model, tokens).sum().backward()
        calls.append(reads.calls)
    assert calls[1] == calls[0]
    with Reads() as reads:
        float(torch.ones(1))
    assert reads.calls  # what is looked for would be found


def test_an_input_without_a_time_axis_is_refused() -> None:
    layer = nn.Linear(3, 2)
    watched = PerSampleGradients({"experts.0": layer})
    with (
        watched.observe(lambda name, gradient: None, scale=1.0),
        pytest.raises(ValueError, match=r"experts.0: expected an input \[batch, time, in\]"),
    ):
        layer(torch.ones(4, 3))


def test_outside_an_observation_the_hooks_do_nothing(lora_model: Any, samples: list[TokenizedSample]) -> None:
    model = lora_model()
    seen: list[str] = []
    watched = PerSampleGradients(lora_layers(model))
    with watched.observe(lambda name, gradient: seen.append(name), scale=1.0), torch.no_grad():
        mean_token_losses(model, padded(samples[:1]))
    mean_token_losses(model, padded(samples[:1])).sum().backward()
    watched.remove()
    with watched.observe(lambda name, gradient: seen.append(name), scale=1.0):
        mean_token_losses(model, padded(samples[:1])).sum().backward()
    assert seen == []
