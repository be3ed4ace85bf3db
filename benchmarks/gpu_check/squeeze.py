"""Takes memory away from a process that is training, so that it really runs out of it."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch


def can_squeeze(device: torch.device) -> bool:
    """Return whether memory can be taken away here."""
    return device.type == "cuda" or sys.platform == "linux"


@contextmanager
def squeezed(pid: int, device: torch.device, room: int) -> Iterator[None]:
    """For the time of the block, leave a process `room` bytes beside what it has.

    On a GPU this process takes all the rest of its memory; on a CPU the kernel refuses the process more addresses.

    Args:
        pid: A process of the same user, which trains on the device.
        device: Whose memory is taken.
        room: Bytes.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        taken = torch.empty(max(free - room, 0), dtype=torch.uint8, device=device)
        try:
            yield
        finally:
            del taken
            torch.cuda.empty_cache()
        return
    _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (psutil.Process(pid).memory_info().vms + room, hard))
    yield
