"""The messages between supervisor and child while a step runs, and the files that they exchange.

The child (`python -m worker.child.run FOLDER`) reads `spec.json` (a StepSpec) and `rows.parquet` from its folder, takes
Commands as JSON lines on stdin, prints Events as JSON lines on stdout, and writes its files to the same folder:

- a step `train:{seed}` writes `recording.npz`, what the run recorded of every sample;
- while it runs it writes `checkpoints/{position}/`, each with a `checkpoint` event; it continues from checkpoints that
  it finds there when it starts;
- the step `combine` reads every seed's recording as `recordings/{seed}.npz` and writes `scores.parquet` (ScoreRows),
  `traces.parquet`, `baselines.parquet`, `tokens.parquet`, `nearest.parquet` and `summary.json` (a Summary).
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from service.contract.closed import Closed
from service.contract.failure import Failure
from service.contract.spec import COMBINE

SPEC_FILE = "spec.json"
"""The specification of a step: a StepSpec."""

ROWS_FILE = "rows.parquet"
"""The normalised dataset, with ROWS_COLUMNS."""

RECORDING_FILE = "recording.npz"
"""What a run recorded of every sample."""

RECORDINGS_FOLDER = "recordings"
"""The recordings of all seeds, for the step that combines them."""

SCORES_FILE = "scores.parquet"
"""The result of every sample, with SCORE_COLUMNS."""

TRACES_FILE = "traces.parquet"
"""Every observation, with TRACE_COLUMNS."""

BASELINES_FILE = "baselines.parquet"
"""The scores of simpler methods, with BASELINE_COLUMNS."""

TOKENS_FILE = "tokens.parquet"
"""The shares of tokens, with TOKEN_COLUMNS."""

NEAREST_FILE = "nearest.parquet"
"""The nearest samples, with NEAREST_COLUMNS."""

SUMMARY_FILE = "summary.json"
"""The summary of the audit: a Summary."""

COUNTED_FILE = "near_duplicates.json"
"""Written by the child that counts near-duplicates: a NearDuplicates."""

CHECKPOINTS_FOLDER = "checkpoints"
"""One folder for each checkpoint of a training step."""

CHECKPOINT_MANIFEST = "manifest.json"
"""A file in every checkpoint's folder that is written last: without it, the checkpoint is not complete."""

CHECKPOINTS_KEPT = 2
"""The newest, and the one before in case the newest turns out damaged."""


def output_files(step_key: str) -> tuple[str, ...]:
    """Return the names of the files that a step's child has written when it finishes."""
    if step_key == COMBINE:
        return (SCORES_FILE, TRACES_FILE, BASELINES_FILE, TOKENS_FILE, NEAREST_FILE, SUMMARY_FILE)
    return (RECORDING_FILE,)


class Cancel(Closed):
    """Stop at once and exit; nothing of this run will be published."""

    type: Literal["cancel"] = "cancel"


class Lease(Closed):
    """Allows the child to run for this long from now; a lease replaces the one before, and after the last it exits."""

    type: Literal["lease"] = "lease"
    ttl_s: float = Field(gt=0)
    """Seconds, by the child's own monotonic clock. A child without any lease runs without a deadline."""


class SaveAndStop(Closed):
    """Leave the step for another child to continue: checkpoint at the end of the next step, and exit with EXIT_SAVED.

    If there is nothing to save yet the child exits with EXIT_STOPPED; if the step is nearly done, it finishes.
    """

    type: Literal["save_and_stop"] = "save_and_stop"


Command = Annotated[Cancel | Lease | SaveAndStop, Field(discriminator="type")]

COMMAND: TypeAdapter[Cancel | Lease | SaveAndStop] = TypeAdapter(Command)
"""Parses one line of the child's stdin. End of file on stdin means that the supervisor has ended: the child exits."""

EXIT_STOPPED = 3
"""Exit code of a child that was ordered to stop, whose lease has expired, or whose supervisor has ended."""

EXIT_SAVED = 4
"""Exit code of a child that was ordered to save and stop, and has left a checkpoint of exactly where it stopped."""


class Stage(StrEnum):
    """What an audit is doing, in this order."""

    PREPARING = "preparing"
    """The supervisor stages inputs."""
    LOADING = "loading"
    """The child imports its libraries and loads the model."""
    TOKENIZING = "tokenizing"
    TRAINING = "training"
    ATTRIBUTING = "attributing"
    """The child splits the alignment of the first samples over their tokens."""
    SCORING = "scoring"
    """The child turns recordings into results."""
    PUBLISHING = "publishing"
    """The supervisor copies scores into the database."""


class ProgressEvent(Closed):
    """Progress within a stage: `done` of `total` units. At most once a second, and at each stage's start and end."""

    type: Literal["progress"] = "progress"
    stage: Stage
    done: int = Field(ge=0)
    total: int | None = Field(default=None, ge=0)
    unit: str = ""
    eta_seconds: float | None = Field(default=None, ge=0)
    """Seconds until the whole step ends, as the child estimates them."""


class MetricEvent(Closed):
    """What training measured at one optimiser step."""

    type: Literal["metric"] = "metric"
    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    probe_loss: float | None = None
    """Mean loss of the unwanted answers if it was measured at this step."""


class NoticeEvent(Closed):
    """Something a person should read, without sample text. `code` is stable."""

    type: Literal["notice"] = "notice"
    level: Literal["info", "warning"] = "info"
    code: str
    message: str


class CheckpointEvent(Closed):
    """A training step has written a complete checkpoint to disk: `checkpoints/{name}`."""

    type: Literal["checkpoint"] = "checkpoint"
    name: str = Field(pattern=r"^\d{9}$")
    """The checkpoint's folder: the number of steps taken, with leading zeros, so that the last name is the newest."""


class FailedEvent(Closed):
    """The child's last line if it could not finish."""

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
"""Parses one line of the child's stdout."""
