"""Which of the machine's NVIDIA GPUs a process may use, according to the driver and without torch."""

import os

import pynvml


def first_visible_gpu() -> str | None:
    """Return the first GPU that CUDA programs of this process would see, by number or name; None if all are hidden."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    return None if wanted in ("", "-1") else wanted


def count_visible_gpus() -> int:
    """Return the number of GPUs that the driver knows, 0 if they are hidden from this process.

    Raises:
        pynvml.NVMLError: There is no driver, or it does not answer.
    """
    pynvml.nvmlInit()
    try:
        there = int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()
    return there if first_visible_gpu() is not None else 0
