"""Errors that the training child can name: each becomes one `failed` event."""

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
