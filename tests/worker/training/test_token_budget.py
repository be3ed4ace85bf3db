"""The most tokens of a pass follow from what is free; what cannot fit is told before the first step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.contract.failure import ErrorCode
from worker.training.errors import TrainingError
from worker.training.passes import Passes
from worker.training.token_budget import SHARE, PassCost, Single, TokenBudget

CPU = torch.device("cpu")
GB = 1_000_000_000

costs = st.builds(PassCost, st.floats(1.0, 1e8), st.integers(0, 10 * GB))


@given(costs, st.integers(0, 200 * GB), st.integers(0, 50 * GB))
def test_as_many_tokens_as_fit_and_no_more(cost: PassCost, free: int, reserve: int) -> None:
    tokens = cost.tokens(free, reserve)

    def taken(count: int) -> float:
        return cost.bytes_a_token * count + cost.gradients + reserve

    assert tokens >= 1
    assert tokens == 1 or taken(tokens) <= SHARE * free * (1 + 1e-9)
    assert taken(tokens + 1) >= SHARE * free * (1 - 1e-9)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=16), st.integers(1, 2000), st.none() | st.integers(1, 16))
def test_every_sample_is_in_one_pass_and_no_pass_over_the_budget(
    lengths: list[int], budget: int, samples: int | None
) -> None:
    passes = Passes("a training pass", samples=samples, device=CPU)
    passes.plan(budget)
    done = passes.run(lengths, lambda part: [lengths[position] * 7 for position in part], lambda position: "")
    positions = [position for part, _ in done for position in part]
    assert sorted(positions) == list(range(len(lengths)))
    for part, found in done:
        assert len(part) == 1 or len(part) * max(lengths[position] for position in part) <= budget
        assert len(part) <= (samples or len(lengths))
        # What came of each sample, in the order of its pass.
        assert found == [lengths[position] * 7 for position in part]
    # Samples go by length, and by place where they are as long: the same order whatever the budget.
    assert positions == sorted(range(len(lengths)), key=lambda position: (lengths[position], position))


def test_what_memory_has_shown_outlives_a_plan() -> None:
    passes = Passes("a training pass", samples=None, device=CPU)
    assert passes.tokens is None
    passes.plan(900)
    assert passes.tokens == 900

    def run(part: list[int]) -> None:
        if len(part) > 2:
            raise MemoryError

    passes.run([100] * 8, run, lambda position: "")
    assert passes.tokens == 200
    passes.plan(5000)
    assert passes.tokens == 200
    passes.plan(150)
    assert passes.tokens == 150


def test_a_budget_follows_what_is_free() -> None:
    free = [80 * GB]
    budget = TokenBudget(PassCost(8e6, GB), lambda: free[0])
    assert budget.tokens() == int((SHARE * 80 * GB - GB) / 8e6)
    free[0] = 10 * GB
    assert budget.tokens(reserve=2 * GB) == int((SHARE * 10 * GB - 3 * GB) / 8e6)
    assert budget.notice(687).message == (
        "A training pass has at most 687 tokens with padding, or one sample: 10.0 GB are free on the GPU, and a token "
        "takes 8.00 MB."
    )


def test_a_sample_that_cannot_fit_is_told_with_what_to_change() -> None:
    budget = TokenBudget(PassCost(10e6, GB), lambda: 24 * GB)
    budget.check([Single("Row 7", 2000, 3 * GB)])  # 24 GB, exactly
    with pytest.raises(TrainingError) as caught:
        budget.check([Single("Row 7", 2000, 3 * GB), Single("Item 3 of probe 2", 2100, 4 * GB)])
    found = caught.value.failure
    assert found.code is ErrorCode.OUT_OF_MEMORY
    assert found.message == (
        "The GPU has 24.0 GB free once the model is loaded. Item 3 of probe 2 has 2100 tokens: a pass of it alone "
        "takes 22.0 GB, and the optimiser and the probes' gradients take 4.0 GB beside it."
    )
    assert found.hint == (
        "Set training.max_length to 1900 or less; longer samples lose their end, which the summary counts. Or: set "
        "training.gradient_checkpointing to true, where it is not, lower training.lora_r, take fewer "
        "training.target_modules or audit fewer probes at once. Or give the worker a GPU with more memory."
    )


def test_where_no_length_fits_none_is_named() -> None:
    budget = TokenBudget(PassCost(10e6, GB), lambda: 24 * GB)
    with pytest.raises(TrainingError) as caught:
        budget.check([Single("Row 7", 100, 30 * GB)])
    assert caught.value.failure.hint.startswith("Set training.gradient_checkpointing to true, where it is not, lower")
    assert "max_length" not in caught.value.failure.hint
