"""Describes what went wrong in or around a child as a Failure of the contract."""

import errno
import os
import signal

from sqlalchemy.exc import InterfaceError, OperationalError

from service.contract.failure import NEXT_STEP, ErrorCode, Failure
from service.contract.protocol import EXIT_STOPPED, FailedEvent, FinishedEvent
from service.store.objects import ObjectStoreUnavailableError

RETRIED = frozenset(
    {ErrorCode.KILLED, ErrorCode.LEASE_LOST, ErrorCode.NETWORK, ErrorCode.DISK_FULL, ErrorCode.DEVICE_FAILED}
)
"""Failures from outside, which another attempt may get past. All others would only come again."""

FREE_SPACE = "Free space in the worker's data and cache folders, or give it a larger disk."
"""The beginning of hints where a disk is full."""

DISK_FULL = Failure(
    code=ErrorCode.DISK_FULL, message="The worker's disk is full.", hint=f"{FREE_SPACE} {NEXT_STEP['audit']}"
)
"""The failure of an audit whose worker has no room left."""

CUDA_ERROR = "CUDA error: "
"""How PyTorch begins what it prints where CUDA fails."""

DEVICE_FAILED = Failure(
    code=ErrorCode.DEVICE_FAILED,
    message="The worker's GPU or its driver failed, and the training process was aborted.",
    hint="Look at it with nvidia-smi and in the system's log (Xid), and at the worker's log. " + NEXT_STEP["audit"],
)
"""The failure of an audit whose GPU or driver failed."""


def is_retried(failure: Failure) -> bool:
    """Return whether the job is retried by itself, while it has failures left."""
    return failure.code in RETRIED


def failure_of(error: Exception, kind: str = "audit") -> Failure:
    """Return the failure to show for an error in the worker itself.

    Args:
        error: What was raised.
        kind: What kind of job it was at work on.
    """
    if isinstance(
        error, OperationalError | InterfaceError | ObjectStoreUnavailableError | ConnectionError | TimeoutError
    ):
        return Failure(
            code=ErrorCode.NETWORK,
            message=f"The worker could not reach the database or the object store ({type(error).__name__}).",
            hint=f"Check the way from the worker to both. {NEXT_STEP[kind]}",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL.model_copy(update={"hint": f"{FREE_SPACE} {NEXT_STEP[kind]}"})
    return Failure(
        code=ErrorCode.INTERNAL,
        message=f"The worker could not do the work of this {kind} ({type(error).__name__}).",
        hint="This is a defect in Finetooth or its surroundings; the worker's log has more.",
    )


def failure_of_child(code: int, final_event: FinishedEvent | FailedEvent | None, stderr: str) -> Failure:
    """Return the failure of a child that ended without a result.

    Args:
        code: Its exit code, negative for a signal.
        final_event: What it reported last; this is believed first.
        stderr: The end of what it wrote to stderr.

    Returns:
        The failure, with a hint for the user.
    """
    if isinstance(final_event, FailedEvent):
        return final_event.failure
    if os.strerror(errno.ENOSPC) in stderr:
        return DISK_FULL
    if code == -signal.SIGABRT and CUDA_ERROR in stderr:
        # Where the error is found while nothing could catch it, the C++ runtime says so and aborts.
        return DEVICE_FAILED
    if code == EXIT_STOPPED:
        return Failure(
            code=ErrorCode.LEASE_LOST,
            message="The training process ended by itself: it had not heard from its worker in time.",
            hint="The worker or its machine was held up. Retry the audit: it goes on where it was.",
        )
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return Failure(
            code=ErrorCode.KILLED,
            message="The training process was killed, most likely because the machine ran out of memory.",
            hint="Give the worker's machine more memory, or take a smaller model. Where it trains on the processor, a "
            "lower training.micro_batch_size or training.max_length needs less.",
        )
    how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with code {code} and without a result"
    return Failure(
        code=ErrorCode.CHILD_CRASHED,
        message=f"The training process {how}.",
        hint="The worker's log holds the end of its error output.",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
