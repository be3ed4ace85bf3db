"""Where a run trains."""

import os

import pynvml
import torch
from accelerate import Accelerator


def training_device() -> torch.device:
    """Return the device that runs train on: a GPU, wherever there is one.

    Raises:
        RuntimeError: The machine has a GPU that PyTorch was built for and cannot use, most often for its driver.
    """
    device = Accelerator().device
    if device.type == "cpu" and torch.version.cuda is not None and _count_gpus():
        # A driver that is too old counts as no GPU, and a model of billions of parameters would train for weeks.
        torch.cuda.init()
        raise RuntimeError("CUDA initialization: there is a GPU, and it was not taken")
    return device


def _count_gpus() -> int:
    """Return how many GPUs the driver knows that are not hidden from this process."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip() in ("", "-1"):
        return 0
    try:
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
