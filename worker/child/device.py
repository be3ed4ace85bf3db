"""Where a run trains."""

import os

import pynvml
import torch
from accelerate import Accelerator

from service.contract.failure import ErrorCode
from worker.process.child_process import TRAIN_ON
from worker.process.visible_gpus import count_visible_gpus
from worker.training.errors import TrainingError


def training_device() -> torch.device:
    """Return the device that runs train on: a GPU, wherever there is one.

    Raises:
        RuntimeError: The machine has a GPU that PyTorch was built for and cannot use, most often for its driver.
        TrainingError: It is the CPU, and the worker trains on GPUs alone.
    """
    device = Accelerator().device
    if device.type != "cpu":
        return device
    if torch.version.cuda is not None and _has_gpu():
        # A driver that is too old counts as no GPU, and a model of billions of parameters would train for weeks.
        torch.cuda.init()
        raise RuntimeError("CUDA initialization: there is a GPU, and it was not taken")
    if os.environ.get(TRAIN_ON) == "gpu":
        built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        raise TrainingError(
            ErrorCode.DEVICE_FAILED,
            f"The worker's GPU cannot be used: torch sees none. It is built for {built_for}.",
            "Look at nvidia-smi on the worker: its driver must be new enough for that. To train on the CPU all the "
            "same, set FINETOOTH_TRAIN_ON=any on the worker. Then retry the audit.",
        )
    return device


def forbid_tf32() -> None:
    """From now on products of float32 numbers are computed in float32, whatever an image's environment says.

    TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which NVIDIA's images set, would round LoRA layers to ten bits.
    """
    torch.set_float32_matmul_precision("highest")


def _has_gpu() -> bool:
    try:
        return count_visible_gpus() > 0
    except pynvml.NVMLError:
        return False
