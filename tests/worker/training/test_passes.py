"""Passes for which memory does not suffice are halved and repeated, and stay small."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.contract.failure import ErrorCode
from service.contract.protocol import NoticeEvent
from worker.training.errors import TrainingError
from worker.training.passes import Passes

CPU = torch.device("cpu")
RAN_OUT = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9."


class Machine:
    """Has memory for so many tokens, padding among them, and remembers what ran."""

    def __init__(self, lengths: list[int], capacity: int) -> None:
        self.lengths, self.capacity = lengths, capacity
        self.ran: list[list[int]] = []
        self.tried = 0

    def run(self, part: list[int]) -> int:
        self.tried += 1
        if len(part) * max(self.lengths[position] for position in part) > self.capacity:
            raise RuntimeError(RAN_OUT)
        self.ran.append(part)
        return sum(part)


def name(position: int) -> str:
    return f"Row {position + 100}"


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=12),
    st.integers(1, 2000),
    st.none() | st.integers(1, 12),
)
def test_every_sample_runs_once_unless_one_alone_does_not_fit(
    lengths: list[int], capacity: int, samples: int | None
) -> None:
    machine, told = Machine(lengths, capacity), list[NoticeEvent]()
    passes = Passes("a training pass", samples=samples, device=CPU, tell=told.append)
    if max(lengths) > capacity:
        with pytest.raises(TrainingError) as caught:
            passes.run(lengths, machine.run, name)
        assert caught.value.failure.code is ErrorCode.OUT_OF_MEMORY
        return
    done = passes.run(lengths, machine.run, name)
    assert [part for part, _ in done] == machine.ran
    assert [found for _, found in done] == [sum(part) for part in machine.ran]
    assert sorted(position for part in machine.ran for position in part) == list(range(len(lengths)))
    lowered = machine.tried > len(machine.ran)
    assert (passes.tokens is not None) == bool(told) == lowered
    # Of what is known to be too much nothing is tried again.
    before = machine.tried
    passes.run(lengths, machine.run, name)
    assert machine.tried == before + len(machine.ran) - len(done)


def test_it_is_said_once_with_the_numbers() -> None:
    machine, told = Machine([512] * 8, 1100), list[NoticeEvent]()
    passes = Passes("a training pass", samples=8, device=CPU, tell=told.append)
    for _ in range(3):
        passes.run([512] * 8, machine.run, name)
    assert machine.tried == 2 + 3 * 4  # eight, four, and then two at once
    (notice,) = told
    assert (notice.level, notice.code) == ("warning", "passes_halved")
    assert notice.message == (
        "The machine's memory ran out in a training pass of 8 samples of up to 512 tokens. From now on such a pass has "
        "at most 1024 tokens with padding, or one sample; this one was repeated with 2 samples. The result is the "
        "same, and takes longer."
    )


def test_short_samples_still_run_together() -> None:
    """The limit is one of tokens: long samples that were too many say nothing of short ones."""
    lengths = [2000] * 8
    passes = Passes("a training pass", samples=None, device=CPU)
    passes.run(lengths, Machine(lengths, 8000).run, name)
    short = [50] * 8
    assert len(passes.run(short, Machine(short, 8000).run, name)) <= 8 * 50 // 64 + 1
    assert passes.tokens == 8000


def test_a_sample_that_does_not_fit_alone_is_named_with_its_tokens() -> None:
    machine = Machine([40, 900, 30], 500)
    passes = Passes("a training pass", samples=None, device=CPU)
    with pytest.raises(TrainingError) as caught:
        passes.run(machine.lengths, machine.run, name)
    found = caught.value.failure
    assert found.code is ErrorCode.OUT_OF_MEMORY
    assert found.message == ("The machine's memory ran out in a training pass of one sample. Row 101 has 900 tokens.")
    assert found.hint.startswith("Set training.max_length below 900, for instance to 450,")


def test_what_the_pass_held_is_free_before_it_is_repeated() -> None:
    class Held:
        pass

    alive = list[bool]()
    held = list[weakref.ref[Held]]()

    def run(part: list[int]) -> None:
        alive.append(any(other() is not None for other in held))
        own = Held()
        own.itself = own  # type: ignore[attr-defined]  # in a circle, as graphs may be
        held.append(weakref.ref(own))
        if len(part) > 1:
            raise RuntimeError(RAN_OUT)

    gc.disable()
    try:
        Passes("a pass", samples=None, device=CPU).run([8] * 4, run, name)
    finally:
        gc.enable()
    assert alive[:3] == [False, False, False]  # of four, of two, of one


@pytest.mark.parametrize(
    ("device", "error", "halved"),
    [
        ("cuda", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        ("cuda", RuntimeError("CUDA error: out of memory"), True),
        ("cuda", MemoryError(), False),
        ("cuda", RuntimeError(RAN_OUT), False),
        ("cuda", RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        ("cpu", MemoryError(), True),
        ("cpu", RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
    ],
)
def test_only_what_passes_take_memory_of_is_helped_by_smaller_ones(device: str, error: Exception, halved: bool) -> None:
    failed = list[int]()

    def run(part: list[int]) -> None:
        if not failed:
            failed.append(len(part))
            raise error

    passes = Passes("a pass", samples=None, device=torch.device(device))
    if halved:
        assert len(passes.run([8] * 4, run, name)) > 1
    else:
        with pytest.raises(type(error)):
            passes.run([8] * 4, run, name)
