"""What a child of a worker that trains on GPUs alone trains on."""

import pytest
import torch

from worker.child.device import training_device
from worker.process.child_process import TRAIN_ON
from worker.training.errors import TrainingError

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_cuda
def test_where_a_gpu_is_wanted_the_cpu_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRAIN_ON, "gpu")
    if torch.backends.mps.is_available():
        return
    with pytest.raises(TrainingError) as caught:
        training_device()
    assert "torch sees none" in caught.value.failure.message
    assert "driver" in caught.value.failure.hint


@pytest.mark.parametrize("wanted", ["any", None])
def test_else_there_is_always_a_device(wanted: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRAIN_ON, raising=False)
    if wanted is not None:
        monkeypatch.setenv(TRAIN_ON, wanted)
    assert training_device().type in ("cpu", "cuda", "mps")
