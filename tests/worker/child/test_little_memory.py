"""A training step on a machine whose memory suffices for one sample at a time."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from service.contract.protocol import EVENT, RECORDING_FILE, SPEC_FILE, NoticeEvent, Stage
from service.contract.results import SplitObstacle
from service.contract.spec import StepSpec
from worker.child.control import StopRequest
from worker.child.events import Reporter
from worker.child.train import train_seed
from worker.results.recording import Recording


@contextmanager
def room_for(samples: Callable[[], int]) -> Iterator[None]:
    """Passes of more samples run out of memory, as PyTorch says it on a processor."""

    def embed(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Embedding) and len(inputs[0]) > samples():
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    handle = register_module_forward_pre_hook(embed)
    try:
        yield
    finally:
        handle.remove()


def train(folder: Path, stream: io.StringIO) -> tuple[Recording, list[NoticeEvent]]:
    train_seed(folder, StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes()), Reporter(stream), StopRequest())
    events = [EVENT.validate_json(line) for line in stream.getvalue().splitlines()]
    return Recording.load(folder / RECORDING_FILE), [event for event in events if isinstance(event, NoticeEvent)]


def assert_close(found: Any, expected: Any, name: str) -> None:
    scale = float(np.nanmean(np.abs(expected)))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * scale, err_msg=name)


def test_one_sample_at_a_time(staged: Callable[..., Path]) -> None:
    folder = staged(rows=24, dtype="float32")
    expected, none = train(folder, io.StringIO())
    assert none == []
    with room_for(lambda: 1):
        found, told = train(folder, io.StringIO())
    assert {notice.code for notice in told} == {"passes_halved"}
    for passes in ("a training pass", "a pass over probe items", "a pass that splits alignments over tokens"):
        assert len([notice for notice in told if f"ran out in {passes} of " in notice.message]) >= 1, passes
    for recording in (found, expected):
        assert recording.split is not None
    assert_close(found.probe_loss, expected.probe_loss, "probe_loss")
    orders = [np.lexsort((own.observations.row, own.observations.step)) for own in (found, expected)]
    for name in ("row", "step", "effect"):
        own, other = (
            getattr(one.observations, name)[order] for one, order in zip((found, expected), orders, strict=True)
        )
        assert_close(own, other, name)


def test_no_room_for_the_split_alone(staged: Callable[..., Path]) -> None:
    """The run is whole without it."""
    folder, stream = staged(rows=24, dtype="float32"), io.StringIO()
    with room_for(lambda: 0 if f'"{Stage.ATTRIBUTING}"' in stream.getvalue() else 8):
        found, _ = train(folder, stream)
    assert found.split is None
    assert found.facts.split_obstacle is SplitObstacle.OUT_OF_MEMORY
    assert len(found.observations) == 2 * 24


def test_activations_computed_again(staged: Callable[..., Path]) -> None:
    """The split, by forward-mode derivatives, is that of a step that keeps all activations."""
    folder = staged(rows=24, dtype="float32")
    expected, _ = train(folder, io.StringIO())
    folder = staged(rows=24, dtype="float32", gradient_checkpointing=True)
    found, told = train(folder, io.StringIO())
    assert told == []
    assert found.split is not None
    assert expected.split is not None
    assert_close(found.observations.effect, expected.observations.effect, "effect")
    for name, array in expected.split.arrays().items():
        assert_close(found.split.arrays()[name], array, name)
