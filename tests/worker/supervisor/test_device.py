"""Whether a worker has a GPU, seen without torch."""

import shutil
import sys

import pytest

from worker.supervisor.device import NO_GPU, why_no_gpu

HAS_DRIVER = shutil.which("nvidia-smi") is not None


@pytest.mark.skipif(HAS_DRIVER or sys.platform == "darwin", reason="there may be a GPU")
def test_a_machine_without_a_driver_has_none() -> None:
    assert why_no_gpu() == NO_GPU


@pytest.mark.skipif(not HAS_DRIVER, reason="there is no NVIDIA driver")
def test_a_card_counts_unless_it_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert why_no_gpu() is None
    for nothing in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert why_no_gpu() == NO_GPU
