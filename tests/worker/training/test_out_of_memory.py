"""What a user reads whose device ran out of memory."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.contract.failure import ErrorCode
from service.contract.spec import TrainingConfig
from worker.training.batches import micro_batches
from worker.training.errors import TrainingError
from worker.training.out_of_memory import out_of_memory_told, smaller, smaller_weights

CPU = torch.device("cpu")


def test_fewer_samples_at_once() -> None:
    assert smaller([512] * 8, None, CPU) == (
        "Set training.micro_batch_size to 4: 8 samples of up to 512 tokens at once were too many, and this halves the "
        "memory for activations at least; it changes no result."
    )
    assert smaller([512] * 8, 4, CPU).startswith("Set training.micro_batch_size to 2: 4 samples")


def test_shorter_samples_where_there_is_one_at_once() -> None:
    assert smaller([512] * 8, 1, CPU) == (
        "Set training.max_length to 256: one sample of 512 tokens was too long, and this halves the memory for "
        "activations; longer samples lose their end, which the summary counts."
    )


def test_shorter_samples_where_one_is_as_long_as_all_others() -> None:
    assert smaller([2000, 20, 20, 20], None, CPU).startswith("Set training.max_length to 1000")


def test_a_model_that_does_not_fit() -> None:
    assert smaller_weights(TrainingConfig(dtype="float32")) == (
        "Set training.dtype to bfloat16, which halves the memory for the model's weights."
    )
    assert smaller_weights(TrainingConfig()) == "Take a smaller model, or a worker with more memory."


@given(
    st.lists(st.integers(2, 4000), min_size=1, max_size=12),
    st.none() | st.integers(1, 12),
    st.sampled_from([CPU, torch.device("cuda")]),
)
def test_what_is_suggested_halves_the_largest_part(lengths: list[int], limit: int | None, device: torch.device) -> None:
    def largest(limit: int | None, lengths: list[int]) -> int:
        return max(len(part) * max(lengths[i] for i in part) for part in micro_batches(lengths, limit, device))

    words = smaller(lengths, limit, device).split()
    setting, value = words[1], int(words[3].rstrip(":"))
    before = largest(limit, lengths)
    if setting == "training.micro_batch_size":
        assert value < (limit or len(lengths))
        assert largest(value, lengths) <= before / 2
    else:
        assert setting == "training.max_length"
        assert value == max(lengths) // 2
        assert all(largest(fewer, lengths) > before / 2 for fewer in range(1, min(limit or 12, len(lengths))))


def test_torch_on_a_cpu() -> None:
    with pytest.raises(TrainingError) as caught, out_of_memory_told(partial(smaller, [512] * 8, None, CPU)):
        torch.empty(1 << 60, dtype=torch.uint8)
    assert caught.value.failure.code is ErrorCode.OUT_OF_MEMORY
    assert "micro_batch_size to 4" in caught.value.failure.hint


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_told(partial(smaller, [5], None, CPU)):
        torch.zeros(2).view(3)
