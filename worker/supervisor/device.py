"""What this worker's audits train on, and how full it is, read without torch."""

import os
import platform
import sys

import psutil
import pynvml

from service.lifecycle.workers import Device

CPU = "cpu"
"""As torch calls it."""


def read_device() -> Device | None:
    """Read the first GPU that CUDA programs of this process would see; without one, the machine's own memory.

    None where there is an NVIDIA driver that does not answer.
    """
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return _machine()
    except pynvml.NVMLError:
        return None
    try:
        if wanted in ("", "-1") or pynvml.nvmlDeviceGetCount() == 0:
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


def why_not(device: Device | None) -> str | None:
    """Why this worker should not train where only GPUs are wanted; None: it has one.

    Args:
        device: As `read_device` has read it.
    """
    if device is None:
        return "the NVIDIA driver does not answer; look at nvidia-smi"
    if device.name == CPU:
        return "this worker sees no GPU, and would train on the CPU"
    return None


def _machine() -> Device:
    memory = psutil.virtual_memory()
    # As torch calls them.
    name = "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else CPU
    return Device(name=name, memory_bytes=memory.total, memory_used_bytes=memory.total - memory.available)
