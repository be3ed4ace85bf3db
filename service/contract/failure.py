"""Why an attempt failed, in a form for programs and for people."""

from enum import StrEnum

from service.contract.closed import Closed


class ErrorCode(StrEnum):
    """Why an audit failed. Stable: clients match on these."""

    BAD_CONFIG = "bad_config"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_GATED = "model_gated"
    MODEL_UNSAFE = "model_unsafe"
    OUT_OF_MEMORY = "out_of_memory"
    DEVICE_FAILED = "device_failed"
    KILLED = "killed"
    DISK_FULL = "disk_full"
    DISK_ERROR = "disk_error"
    LOSS_NOT_FINITE = "loss_not_finite"
    NOTHING_TO_TRAIN_ON = "nothing_to_train_on"
    SAMPLES_ALIKE = "samples_alike"
    CHILD_CRASHED = "child_crashed"
    INPUT_MISSING = "input_missing"
    LEASE_LOST = "lease_lost"
    NETWORK = "network"
    INTERNAL = "internal"


class Failure(Closed):
    """A failed audit's error: `code` for programs, `message` says what happened, `hint` what to do next.

    None of them ever holds a sample's text.
    """

    code: ErrorCode
    message: str
    hint: str = ""


NEXT_STEP = {
    "audit": "Then retry the audit: it continues where it stopped.",
    "export": "Then ask for the export again.",
    "dataset": "The dataset is as good as before; only its near-duplicates are not counted.",
    "version": "The dataset is as good as before; only its changes from the version before are not counted.",
}
"""What to do after a failure, by kind of job."""
