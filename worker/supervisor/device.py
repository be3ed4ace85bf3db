"""What this worker's audits train on, and how full it is, read without torch."""

import platform
import sys

import psutil
import pynvml

from service.lifecycle.workers import Device
from worker.process.visible_gpus import count_visible_gpus, first_visible_gpu

CPU = "cpu"
"""The name that torch has for the processor."""

NO_GPU = "this worker sees no GPU, and would train on the CPU"
"""Why a worker that should have a GPU takes no jobs."""


def read_device() -> Device | None:
    """Read the first GPU that CUDA programs of this process would see; without one, the machine's own memory.

    None where there is an NVIDIA driver that does not answer.
    """
    wanted = first_visible_gpu()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return _machine()
    except pynvml.NVMLError:
        return None
    try:
        if wanted is None or pynvml.nvmlDeviceGetCount() == 0:
            return _machine()
        if wanted.isdigit():
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(wanted))
        else:
            handle = pynvml.nvmlDeviceGetHandleByUUID(wanted)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = pynvml.nvmlDeviceGetName(handle)
        return Device(name=name, memory_bytes=int(memory.total), memory_used_bytes=int(memory.used))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def why_no_gpu() -> str | None:
    """Why audits of this worker would train on the CPU, as far as it is seen without torch; None: there is a GPU.

    A card of which nothing more can be read, as a part of one (MIG) often is, is a GPU.
    """
    try:
        return None if count_visible_gpus() else NO_GPU
    except pynvml.NVMLError_LibraryNotFound:
        return NO_GPU if _machine().name == CPU else None
    except pynvml.NVMLError:
        return "the NVIDIA driver does not answer; look at nvidia-smi"


def _machine() -> Device:
    memory = psutil.virtual_memory()
    # As torch calls them.
    name = "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else CPU
    return Device(name=name, memory_bytes=memory.total, memory_used_bytes=memory.total - memory.available)
