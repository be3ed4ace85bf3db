"""Tells the kind of a fault that a library raises, by the names of types and by texts alone.

A library that could not be imported may be what failed, so none is imported here.
"""

import errno
import re
from collections.abc import Iterator
from enum import StrEnum


class Memory(StrEnum):
    """Which memory ran out."""

    DEVICE = "device"
    HOST = "host"


def exhausted_memory(error: BaseException) -> Memory | None:
    """Return which memory ran out, or None if none did.

    A GPU's memory is asked for by an allocator with an error type of its own, by the CUDA runtime, by its driver and by
    cuBLAS, cuDNN and the like, each of which words it differently.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return Memory.HOST
    if type(error).__name__ == "OutOfMemoryError":
        return Memory.DEVICE
    if not _of_torch(error):
        return None
    if any(words in str(error) for words in _HOST_MEMORY):
        return Memory.HOST
    return Memory.DEVICE if _DEVICE_MEMORY.search(str(error)) else None


def is_device_failure(error: BaseException) -> bool:
    """Return whether a GPU or its driver failed, other than by running out of memory."""
    if any(kind.__module__.partition(".")[0] == "pynvml" for kind in type(error).__mro__):
        return True
    return _of_torch(error) and exhausted_memory(error) is None and any(words in str(error) for words in _DEVICE)


def is_network_trouble(error: BaseException) -> bool:
    """Return whether another machine could not be reached, or did not answer as it should.

    That the hub knows no such model, revision or file is an answer.
    """
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    for kind in type(error).__mro__:
        root = kind.__module__.partition(".")[0]
        if root == "huggingface_hub" and kind.__name__ in _HUB_ANSWERS:
            return _HUB_ANSWERS[kind.__name__]
        if root in _NETWORKING:
            return True
    if isinstance(error, OSError):
        return "Consistency check failed" in str(error)
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TRANSFER)


def is_disk_full(error: BaseException) -> bool:
    """Return whether the disk, or a quota on it, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # What downloads from the hub and what writes weights is in Rust, and wraps the system's word in its own.
    wraps = isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError"
    return wraps and any(words in str(error) for words in _DISK_FULL)


def is_disk_failing(error: BaseException) -> bool:
    """Return whether a file cannot be read or written for a reason of the machine's."""
    codes = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE)
    return isinstance(error, OSError) and error.errno in codes


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and what it came of; libraries wrap what the hub, the disk or the device has said."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_torch(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) or type(error).__name__ == "DeferredCudaCallError"


_HOST_MEMORY = ("DefaultCPUAllocator", "Cannot allocate memory", "std::bad_alloc", "HOST_ALLOCATION_FAILED")

_DEVICE_MEMORY = re.compile(r"\bout of memory\b|_STATUS_(\w+_)?ALLOC(ATION)?_FAILED")

_DEVICE = (
    "CUDA error",
    "CUDA driver error",
    "CUDA driver version",
    "CUDA unknown error",
    "CUDA initialization",
    "CUDA-capable device",
    "cudaGetDeviceCount",
    "No CUDA GPUs are available",
    "NVIDIA driver",
    "NVML",
    "cuDNN error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
    "cusolver error",
    "cusparse error",
    "NCCL error",
    "HIP error",
)

_NETWORKING = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "ssl", "socket")
"""Modules whose errors say that another machine cannot be reached."""

_HUB_ANSWERS = {
    # Not on this disk, and the hub could not be asked.
    "LocalEntryNotFoundError": True,
    "RemoteEntryNotFoundError": False,
    "RepositoryNotFoundError": False,
    "RevisionNotFoundError": False,
    "HfHubHTTPError": True,
}
"""Whether an error of the hub's client is trouble on the way to it; the nearest type counts."""

_TRANSFER = ("CAS service error", "Reqwest", "error sending request", "Network error")
"""How the hub's downloader words trouble on its way."""

_DISK_FULL = ("No space left on device", "Disk quota exceeded")
