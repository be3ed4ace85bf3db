"""A GPU that cannot be used is not a machine without one."""

import os
import subprocess
import sys

import pynvml
import pytest
import torch

from service.contract.failure import ErrorCode
from worker.child.device import training_device
from worker.child.failures import failure_of
from worker.process.child_process import offline_environment

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver"


@pytest.fixture
def too_old_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch built for CUDA and NVIDIA's library are on such a machine."""

    def init() -> None:
        raise RuntimeError(TOO_OLD)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 1)


@without_gpu
def test_a_machine_without_a_gpu_trains_on_its_processor() -> None:
    assert training_device().type in ("cpu", "mps")


@without_gpu
@pytest.mark.usefixtures("too_old_a_driver")
def test_a_driver_that_is_too_old() -> None:
    with pytest.raises(RuntimeError, match="too old") as caught:
        training_device()
    assert failure_of(caught.value).code is ErrorCode.DEVICE_FAILED


@without_gpu
@pytest.mark.usefixtures("too_old_a_driver")
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_is_hidden(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert training_device().type == "cpu"


def test_float32_is_not_rounded_where_an_image_asks_for_it() -> None:
    """As a child begins in one of NVIDIA's images, whose variable is passed on to it."""
    assert "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE" in offline_environment({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"})
    program = (
        "import torch; from worker.child.device import forbid_tf32\n"
        "def shown(): print(torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32)\n"
        "shown(); forbid_tf32(); shown()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == ["high True", "highest False"]
