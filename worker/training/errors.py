"""Errors that the training child can name: each becomes one `failed` event."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from service.contract.failure import ErrorCode, Failure


class TrainingError(Exception):
    """Carries a contract.Failure. Its texts never hold a sample's text."""

    def __init__(self, code: ErrorCode, message: str, hint: str) -> None:
        """Make the failure.

        Args:
            code: For programs.
            message: What happened, in full sentences.
            hint: What to do next, in full sentences.
        """
        super().__init__(message)
        self.failure = Failure(code=code, message=message, hint=hint)


@contextmanager
def at_row(row: int) -> Iterator[None]:
    """What fails in the block fails at that row of the dataset."""
    try:
        yield
    except Exception as error:
        error.row = row  # type: ignore[attr-defined]
        raise


class StoppedError(Exception):
    """The run was left between two steps, as it had been asked to; `saved`: with a checkpoint of just there."""

    def __init__(self, *, saved: bool) -> None:
        super().__init__("left between two steps")
        self.saved = saved


def is_disk_full(error: BaseException) -> bool:
    """Return whether the disk, or a quota on it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_disk_failing(error: BaseException) -> bool:
    """Return whether a file cannot be read or written for a reason of the machine's."""
    codes = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE)
    return isinstance(error, OSError) and error.errno in codes


def says_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: of a GPU, of Python, or of a library that has no type of its own for it.

    By name and text, since torch may be what could not be imported.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "Cannot allocate memory")
