"""What a user reads whose memory ran out where no smaller pass helps."""

from functools import partial

import pytest
import torch

from service.contract.failure import ErrorCode
from service.contract.spec import TrainingConfig
from worker.training.errors import TrainingError
from worker.training.out_of_memory import fewer_directions, out_of_memory_told, smaller_weights


def test_a_model_that_does_not_fit() -> None:
    assert smaller_weights(TrainingConfig(dtype="float32")) == (
        "Set training.dtype to bfloat16, which halves the memory for the model's weights."
    )
    assert smaller_weights(TrainingConfig()) == "Take a smaller model, or a worker with more memory."


def test_probes_whose_gradients_do_not_fit() -> None:
    assert fewer_directions(3).startswith("Audit fewer probes at once, or lower training.lora_r")
    assert fewer_directions(1).startswith("Lower training.lora_r")


def test_torch_on_a_cpu() -> None:
    with pytest.raises(TrainingError) as caught, out_of_memory_told(partial(smaller_weights, TrainingConfig())):
        torch.empty(1 << 60, dtype=torch.uint8)
    failure = caught.value.failure
    assert (failure.code, failure.message) == (ErrorCode.OUT_OF_MEMORY, "The worker's machine ran out of memory.")
    assert "smaller model" in failure.hint


def test_a_gpu() -> None:
    with pytest.raises(TrainingError) as caught, out_of_memory_told(partial(fewer_directions, 2)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert caught.value.failure.message == "The worker's GPU ran out of memory."


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_told(partial(fewer_directions, 1)):
        torch.zeros(2).view(3)
