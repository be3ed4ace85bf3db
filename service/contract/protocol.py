"""What supervisor and child say to each other while a step runs, and the files that they hand over.

The child (`python -m worker.child.run FOLDER`) reads `spec.json` (a StepSpec) and `rows.parquet` from its folder, takes
Commands as JSON lines on stdin, prints Events as JSON lines on stdout, and leaves its files in the same folder:

- a step `train:{seed}` leaves `recording.npz`, what the run recorded of every sample;
- on its way there it leaves `checkpoints/{position}/` and says so with a `checkpoint` event; checkpoints that it finds
  there when it starts are gone on from;
- the step `combine` finds every seed's recording as `recordings/{seed}.npz` and leaves `scores.parquet` (ScoreRows),
  `traces.parquet`, `baselines.parquet`, `tokens.parquet`, `nearest.parquet` and `summary.json` (a Summary).
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from service.contract.closed import Closed
from service.contract.failure import Failure
from service.contract.spec import COMBINE

SPEC_FILE = "spec.json"

ROWS_FILE = "rows.parquet"

RECORDING_FILE = "recording.npz"

RECORDINGS_FOLDER = "recordings"

SCORES_FILE = "scores.parquet"

TRACES_FILE = "traces.parquet"

BASELINES_FILE = "baselines.parquet"

TOKENS_FILE = "tokens.parquet"

NEAREST_FILE = "nearest.parquet"

SUMMARY_FILE = "summary.json"

COUNTED_FILE = "near_duplicates.json"
"""What the child that counts near-duplicates leaves: a NearDuplicates."""

CHECKPOINTS_FOLDER = "checkpoints"

CHECKPOINT_MANIFEST = "manifest.json"
"""In every checkpoint's folder, written last: where it is missing, the checkpoint is not whole."""

CHECKPOINTS_KEPT = 2
"""The newest, and the one before in case the newest turns out damaged."""


def output_files(step_key: str) -> tuple[str, ...]:
    """What a step's child leaves when it has finished."""
    if step_key == COMBINE:
        return (SCORES_FILE, TRACES_FILE, BASELINES_FILE, TOKENS_FILE, NEAREST_FILE, SUMMARY_FILE)
    return (RECORDING_FILE,)


class Cancel(Closed):
    """Stop at once and exit; nothing of this run will be published."""

    type: Literal["cancel"] = "cancel"


class Lease(Closed):
    """The child may run for this long from now on; each lease replaces the one before, and without another it exits."""

    type: Literal["lease"] = "lease"
    ttl_s: float = Field(gt=0)
    """Seconds, by the child's own monotonic clock. A child that was never told runs without a deadline."""


class SaveAndStop(Closed):
    """Leave the step for another child to go on with: checkpoint at the next step's end, and exit with EXIT_SAVED.

    Where there is nothing to save yet the child exits with EXIT_STOPPED; where the step is all but done, it finishes.
    """

    type: Literal["save_and_stop"] = "save_and_stop"


Command = Annotated[Cancel | Lease | SaveAndStop, Field(discriminator="type")]

COMMAND: TypeAdapter[Cancel | Lease | SaveAndStop] = TypeAdapter(Command)
"""Parses one line of the child's stdin. End of file on stdin means that the supervisor is gone: the child exits."""

EXIT_STOPPED = 3
"""Exit code of a child that was told to stop, or left alone."""

EXIT_SAVED = 4
"""Exit code of a child that was told to save and stop, and has left a checkpoint of just where it stopped."""


class Stage(StrEnum):
    """What an audit is doing. In this order."""

    PREPARING = "preparing"
    """The supervisor stages inputs."""
    LOADING = "loading"
    """The child imports its libraries and loads the model."""
    TOKENIZING = "tokenizing"
    TRAINING = "training"
    ATTRIBUTING = "attributing"
    """The child splits the alignment of the first samples over their tokens."""
    SCORING = "scoring"
    """The child turns recordings into the answer."""
    PUBLISHING = "publishing"
    """The supervisor copies scores into the database."""


class ProgressEvent(Closed):
    """`done` of `total` units of `stage`. Sent at most once a second, and at each stage's start and end."""

    type: Literal["progress"] = "progress"
    stage: Stage
    done: int = Field(ge=0)
    total: int | None = Field(default=None, ge=0)
    unit: str = ""
    eta_seconds: float | None = Field(default=None, ge=0)
    """Until the whole step ends, as far as the child can tell."""


class MetricEvent(Closed):
    """What training measured at one optimiser step."""

    type: Literal["metric"] = "metric"
    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    probe_loss: float | None = None
    """Mean loss of the unwanted answers where it was measured at this step."""


class NoticeEvent(Closed):
    """Something a person should read, without sample text. `code` is stable."""

    type: Literal["notice"] = "notice"
    level: Literal["info", "warning"] = "info"
    code: str
    message: str


class CheckpointEvent(Closed):
    """A training step has left a checkpoint, whole and on the disk: `checkpoints/{name}`."""

    type: Literal["checkpoint"] = "checkpoint"
    name: str = Field(pattern=r"^\d{9}$")
    """The checkpoint's folder: the number of steps taken, with leading zeros, so that the last name is the newest."""


class FailedEvent(Closed):
    """The child's last line when it could not finish."""

    type: Literal["failed"] = "failed"
    failure: Failure


class FinishedEvent(Closed):
    """The child's last line when its files are complete on disk."""

    type: Literal["finished"] = "finished"


Event = Annotated[
    ProgressEvent | MetricEvent | NoticeEvent | CheckpointEvent | FailedEvent | FinishedEvent,
    Field(discriminator="type"),
]

EVENT: TypeAdapter[ProgressEvent | MetricEvent | NoticeEvent | CheckpointEvent | FailedEvent | FinishedEvent] = (
    TypeAdapter(Event)
)
