"""Errors that the training child can name: each becomes one `failed` event."""

from service.contract.failure import ErrorCode, Failure


class TrainingError(Exception):
    """Carries a contract.Failure. Messages never hold a sample's text."""

    def __init__(self, code: ErrorCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.failure = Failure(code=code, message=message, hint=hint)


class StoppedError(Exception):
    """The run was left between two steps, as it had been asked to; `saved`: with a checkpoint of just there."""

    def __init__(self, *, saved: bool) -> None:
        super().__init__("left between two steps")
        self.saved = saved
