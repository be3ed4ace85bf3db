"""Reads how much memory of its device this process can have, and how much of it something takes."""

from collections.abc import Callable
from typing import Protocol

import torch


class DeviceMemory(Protocol):
    """The memory of the device that passes run on."""

    def free(self) -> int:
        """Return how many bytes this process could still take."""

    def peak(self, run: Callable[[], object]) -> int:
        """Run it, and return how many bytes it held at once, at most, beside what was held before."""


class CudaMemory:
    """The memory of an NVIDIA GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        """Return the bytes that are free on the GPU or that PyTorch's allocator keeps without using them."""
        free, total = torch.cuda.mem_get_info(self._device)
        held = torch.cuda.memory_allocated(self._device)
        unused = torch.cuda.memory_reserved(self._device) - held
        allowed = int(torch.cuda.get_per_process_memory_fraction(self._device) * total)
        return max(0, min(free + unused, allowed - held))

    def peak(self, run: Callable[[], object]) -> int:
        """See DeviceMemory.peak."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        run()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before


def memory_of(device: torch.device) -> DeviceMemory | None:
    """Return the device's memory where passes are planned by it: on a GPU.

    A processor's memory is the machine's, which other processes take and give back, and which the kernel may lend
    twice: what is free says little there.
    """
    return CudaMemory(device) if device.type == "cuda" else None
