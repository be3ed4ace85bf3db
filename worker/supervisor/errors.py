"""Errors that end an attempt, whatever the kind of its job."""

from service.contract.failure import ErrorCode, Failure


class LeaseLostError(Exception):
    """The job no longer belongs to this worker, or may not: the worker must write nothing more."""


class InputMissingError(Exception):
    """The object store lacks something that the attempt needs."""

    def __init__(self, what: str) -> None:
        """Make the failure of the job. `what` begins the sentence "... not in the object store"."""
        super().__init__(what)
        self.failure = Failure(
            code=ErrorCode.INPUT_MISSING,
            message=f"{what} not in the object store.",
            hint="Check that API and worker share one object store (FINETOOTH_OBJECT_DIR or FINETOOTH_OBJECT_URL); "
            "or upload the dataset again and start the audit again.",
        )


class OutputError(Exception):
    """The child reported that it had finished, but its files are not what the contract promises."""

    def __init__(self, what: str) -> None:
        """Make the failure of the job. `what` says what is wrong with the files; it must quote no sample."""
        super().__init__(what)
        self.failure = Failure(
            code=ErrorCode.INTERNAL,
            message=f"The training run ended with unusable results: {what}.",
            hint="This is a defect in Finetooth; the worker's log has more.",
        )


class StoredModelError(Exception):
    """A file of a stored model is not the one that was imported."""

    def __init__(self, name: str) -> None:
        """Make the failure of the job. `name` is the file's."""
        super().__init__(name)
        self.failure = Failure(
            code=ErrorCode.MODEL_NOT_FOUND,
            message=f"The model's file {name} in the object store is not the one that was imported: its hash differs.",
            hint="Import the model again under another name (python -m service.model_import), and start the audit "
            "with that.",
        )
