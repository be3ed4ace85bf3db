"""Passes planned by memory: within it, and the result of a run that had no limit.

Memory is counted as the bytes of all tensors that a pass keeps for its backward pass, which is what grows with tokens.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contract.failure import ErrorCode
from service.contract.protocol import NoticeEvent
from service.contract.spec import ModelSpec, TrainingConfig
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.probe_gradients import ProbeGradients, ProbeGradientSum
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import ProbeShape, plan
from worker.training.errors import TrainingError
from worker.training.loop import train
from worker.training.lora import with_lora
from worker.training.measurement import EncodedProbe
from worker.training.models import load_model
from worker.training.token_budget import SHARE
from worker.training.tokenization import IGNORED, TokenizedSample

CPU = torch.device("cpu")
CONFIG = TrainingConfig(learning_rate=1e-3, epochs=1, batch_size=8, dtype="float32")


def made_samples() -> list[TokenizedSample]:
    generator = torch.Generator().manual_seed(11)
    ids = [torch.randint(3, 250, (40 + 3 * (number % 11),), generator=generator).tolist() for number in range(40)]
    return [TokenizedSample(tuple(own), tuple([IGNORED] * 2 + own[2:])) for own in ids]


SAMPLES = made_samples()
LONGEST = max(len(sample.ids) for sample in SAMPLES)
PROBES = [EncodedProbe(SAMPLES[:9], SAMPLES[3:12]), EncodedProbe(SAMPLES[20:24])]
SHAPES = [ProbeShape(np.arange(9) % 3, has_reference=True), ProbeShape(np.zeros(4, dtype=np.int64), False)]


@dataclass
class CountedMemory:
    """Of a device with room for `capacity` bytes beside the model; counts what each pass of a model keeps."""

    capacity: int
    kept: dict[int, Tensor] = field(default_factory=dict)
    passes: list[tuple[str, int, int, int]] = field(default_factory=list)
    """Kind, samples, tokens with padding, and bytes of each pass, as the next one begins."""
    present: tuple[str, int, int] | None = None

    @contextmanager
    def watching(self, model: Any) -> Iterator[None]:
        own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                self.kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that nothing gets its address
            return tensor

        model.register_forward_pre_hook(self.begin, with_kwargs=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
        self.end()

    def begin(self, model: Any, args: Any, kwargs: Any) -> None:
        self.end()
        kind = "training" if model.training else "measuring" if torch.is_grad_enabled() else "losses"
        self.present = (kind, len(kwargs["input_ids"]), kwargs["input_ids"].numel())

    def end(self) -> None:
        if self.present is not None:
            self.passes.append((*self.present, self.bytes()))
        self.present = None
        self.kept.clear()

    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.kept.values())

    def free(self) -> int:
        return self.capacity

    def peak(self, run: Callable[[], object]) -> int:
        run()
        return self.bytes()


def run(spec: ModelSpec, capacity: int | None) -> tuple[dict[str, Any], list[NoticeEvent], CountedMemory]:
    """What a run leaves, draws in the order of steps and rows, in double precision; None: passes are not planned."""
    base, _ = load_model(spec, CONFIG, CPU, cache=None)  # type: ignore[arg-type]  # a local model needs no cache
    model = with_lora(base, CONFIG).double()
    recorder = Recorder(lora_layers(model), plan(SHAPES, seed=0))
    memory, told = CountedMemory(capacity or 0), list[NoticeEvent]()
    with memory.watching(model):
        outcome = train(
            model,
            SAMPLES,
            CONFIG,
            pad=0,
            probes=PROBES,
            recorder=recorder,
            tell=told.append,
            memory=None if capacity is None else memory,
        )
    observations, _ = recorder.result()
    order = np.lexsort((observations.row, observations.step))
    product, norm = recorder.products()
    weights = {name: p.detach().numpy() for name, p in model.named_parameters() if p.requires_grad}
    return (
        {
            **weights,
            "row": observations.row[order],
            "step": observations.step[order],
            "effect": observations.effect[order],
            "alignment": observations.alignment[order],
            "product": product[order],
            "norm": norm[order],
            "losses": np.array(outcome.losses),
            "probe_loss": np.stack(outcome.by_products.probe_loss),
        },
        told,
        memory,
    )


@pytest.fixture(scope="module")
def unplanned(tiny_spec: ModelSpec) -> tuple[dict[str, Any], CountedMemory]:
    found, told, memory = run(tiny_spec, None)
    assert told == []
    return found, memory


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_within_memory_and_with_the_result_of_a_run_that_had_enough(
    tiny_spec: ModelSpec, unplanned: tuple[dict[str, Any], CountedMemory], share: float
) -> None:
    expected, free_run = unplanned
    capacity = int(share * max(size for *_, size in free_run.passes)) + fixed_bytes(tiny_spec)
    found, told, memory = run(tiny_spec, capacity)
    assert [notice.code for notice in told] == ["passes_planned"]
    assert len(memory.passes) > len(free_run.passes)
    for kind in ("training", "measuring"):
        own = [(samples, size) for of, samples, _, size in memory.passes if of == kind]
        assert max(samples for samples, _ in own) > 1, "no pass was of several samples"
        # Without a plan, passes of this kind would not have fitted.
        assert max(size for of, _, _, size in free_run.passes if of == kind) > SHARE * capacity
        assert all(size <= capacity for _, size in own)
    for name, own in expected.items():
        # Norms and softmax are in float32 whatever they are given; cosines are beside 1.
        scale = 1.0 if name == "alignment" else float(np.abs(own[np.isfinite(own)]).mean())
        np.testing.assert_allclose(found[name], own, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def fixed_bytes(spec: ModelSpec) -> int:
    """Of gradients and moments, for which a plan leaves room."""
    base, _ = load_model(spec, CONFIG, CPU, cache=None)  # type: ignore[arg-type]
    model = with_lora(base, CONFIG).double()
    return 4 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def test_a_dry_run_leaves_random_states_and_gradients_alone(tiny_spec: ModelSpec) -> None:
    """With dropout, whose masks would be others; memory that suffices for all changes no bit."""
    config = CONFIG.model_copy(update={"lora_dropout": 0.3})
    found = []
    for memory in (None, CountedMemory(1 << 40)):
        base, _ = load_model(tiny_spec, config, CPU, cache=None)  # type: ignore[arg-type]
        model = with_lora(base, config)
        with (memory or CountedMemory(0)).watching(model):
            train(model, SAMPLES, config, pad=0, memory=memory)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    assert torch.equal(*found)


@pytest.mark.parametrize("what", ["sample", "item"])
def test_what_cannot_fit_alone_fails_before_the_first_step(tiny_spec: ModelSpec, what: str) -> None:
    base, _ = load_model(tiny_spec, CONFIG, CPU, cache=None)  # type: ignore[arg-type]
    model = with_lora(base, CONFIG)
    recorder = Recorder(lora_layers(model), plan([SHAPES[1]], seed=0))
    long = TokenizedSample((5,) * 200, (IGNORED,) * 100 + (5,) * 100)
    samples = [*SAMPLES[:30], long] if what == "sample" else SAMPLES[:30]
    probe = EncodedProbe([*SAMPLES[20:23], long]) if what == "item" else EncodedProbe(SAMPLES[20:24])
    memory = CountedMemory(0)
    with memory.watching(model):
        model(input_ids=torch.full((1, LONGEST), 5))
        memory.capacity = 2 * memory.bytes() + recorder.measuring_bytes()
        with pytest.raises(TrainingError) as caught:
            train(model, samples, CONFIG, pad=0, probes=[probe], recorder=recorder, memory=memory)
    assert caught.value.failure.code is ErrorCode.OUT_OF_MEMORY
    named = "Row 30 has 200 tokens" if what == "sample" else "Item 4 of probe 1 has 200 tokens"
    assert named in caught.value.failure.message
    assert len(memory.passes) == 2  # the one above and the dry run: no step was taken


def test_of_one_probe_alone_item_gradients_are_held(tiny_spec: ModelSpec) -> None:
    """While a pass over the items of a probe begins, nothing of another probe is there."""
    base, _ = load_model(tiny_spec, CONFIG, CPU, cache=None)  # type: ignore[arg-type]
    model = with_lora(base, CONFIG)
    recorder = Recorder(lora_layers(model), plan(SHAPES, seed=0))
    held: list[set[int]] = []

    def begin(_model: Any, _args: Any, _kwargs: Any) -> None:
        if torch.is_grad_enabled() and not model.training:
            alive = gc.get_objects()
            present = {own._count for own in alive if isinstance(own, ProbeGradientSum)}
            held.append(present | {len(own.losses) for own in alive if isinstance(own, ProbeGradients)})

    model.register_forward_pre_hook(begin, with_kwargs=True)
    # Two probes of 9 and 4 items, the first with references.
    train(model, SAMPLES[:24], CONFIG, pad=0, probes=PROBES, recorder=recorder)
    assert {9} in held
    assert {4} in held
    assert {9, 4} not in held
