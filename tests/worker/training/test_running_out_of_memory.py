"""A run that ran out of memory and halved its passes is, within rounding, the run that had enough."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.contract.failure import ErrorCode
from service.contract.protocol import NoticeEvent
from service.contract.spec import ModelSpec, TrainingConfig
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import ProbeShape, plan
from worker.training.errors import TrainingError
from worker.training.loop import train
from worker.training.lora import with_lora
from worker.training.measurement import EncodedProbe
from worker.training.models import load_model
from worker.training.tokenization import IGNORED, TokenizedSample

CPU = torch.device("cpu")
CONFIG = TrainingConfig(learning_rate=1e-3, epochs=1, batch_size=4, dtype="float32")
STEPS = 10
RAN_OUT = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9."


def made_samples() -> list[TokenizedSample]:
    generator = torch.Generator().manual_seed(11)
    ids = [torch.randint(3, 250, (6 + number % 11,), generator=generator).tolist() for number in range(37)]
    return [TokenizedSample(tuple(own), tuple([IGNORED] * 2 + own[2:])) for own in ids]


SAMPLES = made_samples()
PROBES = [EncodedProbe(SAMPLES[:9], SAMPLES[3:12]), EncodedProbe(SAMPLES[20:24])]
SHAPES = [ProbeShape(np.arange(9) % 3, has_reference=True), ProbeShape(np.zeros(4, dtype=np.int64), False)]


@dataclass
class SmallMachine:
    """Runs out of memory in the passes of one kind that have more than so many tokens, padding among them."""

    capacity: int
    kind: str
    """training, measuring (gradients of probe items) or losses (of probe items, without gradients)."""
    backward: bool = False
    """In the backward pass, when the gradients of the last layer have already been formed."""
    skip: int = 0
    """So many passes of the kind have room for all."""
    passes: list[int] = field(default_factory=list)
    """Tokens of each pass of the kind that went through."""
    refused: int = 0

    def attach(self, model: Any) -> None:
        layer = model.get_base_model().model.layers[-1]
        model.register_forward_pre_hook(self.begin, with_kwargs=True)
        layer.register_forward_hook(self.within)

    def begin(self, model: Any, args: Any, kwargs: Any) -> None:
        kind = "training" if model.training else "measuring" if torch.is_grad_enabled() else "losses"
        self.tokens = kwargs["input_ids"].numel()
        self.counts = kind == self.kind
        if self.counts:
            self.skip -= 1
        self.full = self.counts and self.skip < 0 and self.tokens > self.capacity and len(kwargs["input_ids"]) > 1
        if self.counts and not self.full:
            self.passes.append(self.tokens)

    def within(self, layer: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        if self.full and not self.backward:
            self.refuse()
        elif self.full:
            # Reached once the head and the last layer have gone backwards.
            inputs[0].register_hook(self.refuse)

    def refuse(self, *_: Any) -> None:
        self.refused += 1
        raise RuntimeError(RAN_OUT)


def run(spec: ModelSpec, machine: SmallMachine | None = None) -> tuple[dict[str, Any], list[NoticeEvent]]:
    """What a run leaves, draws in the order of steps and rows; in double precision, but for norms and softmax."""
    base, _ = load_model(spec, CONFIG, CPU, cache=None)  # type: ignore[arg-type]  # a local model needs no cache
    model = with_lora(base, CONFIG).double()
    recorder = Recorder(lora_layers(model), plan(SHAPES, seed=0))
    if machine:
        machine.attach(model)
    told = list[NoticeEvent]()
    outcome = train(model, SAMPLES, CONFIG, pad=0, probes=PROBES, recorder=recorder, tell=told.append)
    observations, _ = recorder.result()
    order = np.lexsort((observations.row, observations.step))
    product, norm = recorder.products()
    found = outcome.by_products
    of_draws = {
        "row": observations.row,
        "step": observations.step,
        "effect": observations.effect,
        "alignment": observations.alignment,
        "product": product,
        "norm": norm,
        "loss": found.loss.whole().numpy(),
        "similarity": found.similarity.whole().numpy(),
        "inner": found.inner.whole().float().numpy(),
    }
    weights = {name: p.detach().numpy() for name, p in model.named_parameters() if p.requires_grad}
    return {
        **weights,
        **{name: own[order] for name, own in of_draws.items()},
        **{f"items.{n}.{m}": own for n, ours in enumerate(recorder.item_alignment) for m, own in enumerate(ours)},
        **{f"inner.{n}.{m}": p.float().numpy() for n, ours in enumerate(found.inner_items) for m, p in enumerate(ours)},
        "measured_at": np.array(found.measured_at),
        "probe_loss": np.stack(found.probe_loss),
        "losses": np.array(outcome.losses),
    }, told


@pytest.fixture(scope="module")
def undisturbed(tiny_spec: ModelSpec) -> dict[str, Any]:
    found, told = run(tiny_spec)
    assert told == []
    return found


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, own in expected.items():
        # Representations are kept in half precision.
        precision = 2e-3 if name.startswith("inner") else 1e-5
        scale = float(np.abs(own[np.isfinite(own)]).mean())
        np.testing.assert_allclose(found[name], own, rtol=precision, atol=precision * scale, err_msg=name)


MACHINES: dict[str, Callable[[], SmallMachine]] = {
    "from the first step on": lambda: SmallMachine(40, "training"),
    "in a backward pass": lambda: SmallMachine(40, "training", backward=True),
    "in a backward pass after the warm-up": lambda: SmallMachine(40, "training", backward=True, skip=4),
    "late, down to one sample": lambda: SmallMachine(1, "training", skip=9),
    "in the draws that are scored at the end": lambda: SmallMachine(1, "training", backward=True, skip=STEPS),
    "at the first measurement": lambda: SmallMachine(40, "measuring"),
    "in the backward pass of a measurement": lambda: SmallMachine(30, "measuring", backward=True),
    "at a later measurement, down to one item": lambda: SmallMachine(1, "measuring", backward=True, skip=6),
    "where probe losses alone are measured": lambda: SmallMachine(20, "losses"),
}


@pytest.mark.parametrize("case", MACHINES)
def test_the_result_is_the_same_whatever_ran_out_and_when(
    tiny_spec: ModelSpec, undisturbed: dict[str, Any], case: str
) -> None:
    machine = MACHINES[case]()
    found, told = run(tiny_spec, machine)
    assert machine.refused > 0
    assert_same(found, undisturbed)
    assert {notice.code for notice in told} == {"passes_halved"}
    assert 1 <= len(told) <= machine.refused
    late = machine.passes[-1]
    assert late <= max(machine.capacity, 16)  # the longest sample


def test_a_row_that_does_not_fit_alone_is_named(tiny_spec: ModelSpec) -> None:
    class NoRoom(SmallMachine):
        def begin(self, model: Any, args: Any, kwargs: Any) -> None:
            super().begin(model, args, kwargs)
            self.full = self.counts and kwargs["input_ids"].shape[1] >= 16

    with pytest.raises(TrainingError) as caught:
        run(tiny_spec, NoRoom(0, "training"))
    failure = caught.value.failure
    assert failure.code is ErrorCode.OUT_OF_MEMORY
    longest = [row for row, sample in enumerate(SAMPLES) if len(sample.ids) == 16]
    assert any(f"Row {row} has 16 tokens." in failure.message for row in longest)
    assert "training.max_length below 16" in failure.hint
    with pytest.raises(TrainingError, match=r"Item \d+ of probe 1 has 16 tokens\."):
        run(tiny_spec, NoRoom(0, "measuring"))


LIMITED = """
import json, resource, sys
from pathlib import Path
import psutil, torch
from service.contract.spec import ModelSource, ModelSpec, TrainingConfig
from worker.training.loop import train
from worker.training.lora import with_lora
from worker.training.models import load_model
from worker.training.tokenization import TokenizedSample
torch.set_num_threads(1)
folder, room = sys.argv[1], int(sys.argv[2])
config = TrainingConfig(epochs=1, batch_size=8, dtype="float32", learning_rate=1e-3)
spec = ModelSpec(source=ModelSource.LOCAL, location=folder)
base, _ = load_model(spec, config, torch.device("cpu"), cache=Path(folder))
model = with_lora(base, config)
draw = torch.Generator().manual_seed(3)
ids = [tuple(torch.randint(3, 250, (768,), generator=draw).tolist()) for _ in range(16)]
samples = [TokenizedSample(own, own) for own in ids]
train(model, [TokenizedSample(own[:8], own[:8]) for own in ids[:2]], config, pad=0)  # starts all threads
if room:
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
told = []
outcome = train(model, samples, config, pad=0, tell=told.append)
print(json.dumps({"losses": outcome.losses, "told": [notice.message for notice in told]}))
"""


def test_memory_that_the_kernel_refuses(tiny_folder: Path) -> None:
    def child(room: int) -> dict[str, Any]:
        result = subprocess.run(
            [sys.executable, "-c", LIMITED, str(tiny_folder), str(room)], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return found

    free, limited = child(0), child(250 << 20)
    assert free["told"] == []
    assert "ran out in a training pass of 8 samples of up to 768 tokens" in limited["told"][0]
    np.testing.assert_allclose(limited["losses"], free["losses"], rtol=1e-5)
