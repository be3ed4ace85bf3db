"""On a GPU: as exact as on a processor, and no layer makes the processor wait. Skipped where there is none."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.gradients import assert_bfloat16_base_is_close, losses, mean_token_losses, ones, padded, side_of
from worker.influence.capture.per_sample_gradients import PerSampleGradients, lora_layers
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import ProbeShape, plan
from worker.training.tokenization import TokenizedSample

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

CUDA = torch.device("cuda")
DIRECTIONS = plan([ProbeShape(np.array([0, 1, 0]), has_reference=True)], seed=1)


def with_directions(model: Any, samples: list[TokenizedSample]) -> tuple[Recorder, dict[str, torch.Tensor]]:
    """A recorder with the gradients of samples 0 to 5 in force, and P = 1."""
    recorder = Recorder(lora_layers(model), DIRECTIONS)
    recorder.set_directions(
        [[side_of(model, recorder.gradients, items) for items in (samples[:3], samples[3:6])]], ones(model)
    )
    return recorder, ones(model)


def test_a_bfloat16_base_stays_within_five_percent_and_adds_nothing_to_autograd(
    lora_model: Callable[..., Any], samples: list[TokenizedSample]
) -> None:
    """The products are formed on tensor cores here."""
    assert_bfloat16_base_is_close(lora_model, samples, CUDA)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_products_are_summed_in_float32(dtype: torch.dtype) -> None:
    """Layers in half precision altogether: a sum of 20,000 equal terms would stand still in bfloat16 at 256."""
    layer = torch.nn.Linear(1, 1, bias=False, device=CUDA, dtype=dtype)
    seen: dict[str, torch.Tensor] = {}
    watched = PerSampleGradients({"layer": layer})
    with watched.observe(seen.__setitem__, scale=1.0):
        layer(torch.ones(2, 20_000, 1, device=CUDA, dtype=dtype)).sum().backward()
    assert seen["layer"].dtype == torch.float32
    assert seen["layer"].tolist() == [[20_000.0], [20_000.0]]


@pytest.mark.parametrize(("dtype", "exact", "rounded"), [(torch.float64, 1e-6, 1e-6), (torch.float32, 1e-4, 5e-3)])
def test_signals_are_those_of_the_processor(
    lora_model: Callable[..., Any], samples: list[TokenizedSample], dtype: torch.dtype, exact: float, rounded: float
) -> None:
    """In float64 up to what Llama computes in float32 whatever it is given; in float32 the alignment's directions are
    kept in bfloat16.
    """
    found = []
    for device, own in ((torch.device("cpu"), torch.float64), (CUDA, dtype)):
        model = lora_model().to(device, own)
        recorder, preconditioner = with_directions(model, samples)
        with recorder.batch([6, 7], preconditioner, batch_size=2):
            (losses(model, samples[6:8]).sum() / 2).backward()
        recorder.end_step(learning_rate=1.0, clip=1.0)
        observations, _ = recorder.result()
        found.append((observations.effect, *recorder.products(), recorder.item_alignment[0][0], observations.alignment))
    for number, (ours, theirs) in enumerate(zip(*found, strict=True)):
        atol = rounded if number == 4 else exact * np.abs(ours).max()
        np.testing.assert_allclose(theirs, ours, rtol=exact, atol=atol)


def test_recording_a_batch_waits_for_nothing(lora_model: Callable[..., Any], samples: list[TokenizedSample]) -> None:
    model = lora_model(dtype=torch.float32).to(CUDA)
    recorder, preconditioner = with_directions(model, samples)
    tokens = padded(samples[6:8]).beside(model)

    def waits(context: Any, extra: Callable[[torch.Tensor], Any] = lambda loss: None) -> int:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                with context:
                    loss = mean_token_losses(model, tokens).sum() / 2
                    loss.backward()
                    extra(loss)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    plain = waits(nullcontext())
    assert waits(nullcontext(), lambda loss: loss.item()) == plain + 1  # it would be noticed
    assert waits(recorder.batch([6, 7], preconditioner, batch_size=2)) == plain
