"""The settings of an audit as its form shows them: a name, one plain sentence, and what they are by default."""

from dataclasses import dataclass

from service.audits.schemas import AuditCreate
from service.contract.spec import TrainingConfig


@dataclass(frozen=True)
class Option:
    """One setting."""

    name: str
    """The field of AuditCreate, or of its training, that the setting fills."""
    label: str
    sentence: str
    training: bool = True
    """Whether it belongs to the training."""
    choices: tuple[str, ...] = ()
    """The values to choose from; empty where anything may be typed."""

    @property
    def default(self) -> str:
        """What the field holds at first; empty where nothing is chosen."""
        model = TrainingConfig if self.training else AuditCreate
        return shown(model.model_fields[self.name].default)


def shown(value: object) -> str:
    """Return a setting's value as its field holds it."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


MAIN = (
    Option(
        "epochs",
        "Passes over the data",
        "Every pass observes each sample once more; from two observations on, effects have an interval.",
    ),
    Option(
        "seeds",
        "Training runs",
        "Each further run trains with another seed, and the audit says how far they agree; time grows with them.",
        training=False,
    ),
    Option(
        "q",
        "Accepted share of false flags",
        "At 0.05, about one flag in twenty is expected to be wrong; a smaller share flags fewer samples.",
        training=False,
    ),
    Option(
        "group_column",
        "Group column",
        "A column of the data that names each sample's source: the audit measures each group's influence. Optional.",
        training=False,
    ),
    Option(
        "trusted_column",
        "Trusted column",
        "A column that is true, 1 or yes for samples known to be clean: what is normal is learnt from them. Optional.",
        training=False,
    ),
    Option(
        "max_length",
        "Longest sample in tokens",
        "The end of longer samples is cut off; memory grows with this.",
    ),
)
"""Settings that many audits change."""

ADVANCED = (
    Option(
        "priority",
        "Priority",
        "Which of the workspace's own waiting audits go first; high is for admins. Workspaces take turns.",
        training=False,
        choices=("low", "normal", "high"),
    ),
    Option("batch_size", "Batch size", "Samples of one optimiser step."),
    Option(
        "micro_batch_size",
        "Samples in memory at once",
        "Lower it when memory runs out: no result changes. Empty: the whole batch.",
    ),
    Option(
        "gradient_checkpointing",
        "Compute activations again",
        "A fraction of the memory for one more forward pass (gradient checkpointing): no result changes.",
        choices=("no", "yes"),
    ),
    Option("learning_rate", "Learning rate", "At its peak. Empty: chosen by the model's width."),
    Option("warmup_ratio", "Warm-up", "Share of the steps in which the learning rate rises."),
    Option("weight_decay", "Weight decay", "Pulls the trained weights to zero; 0 leaves them."),
    Option("max_grad_norm", "Largest gradient", "A batch's gradient is scaled down to this norm."),
    Option("lora_r", "LoRA rank", "A higher rank can learn more and needs more memory."),
    Option("lora_alpha", "LoRA alpha", "Scales what LoRA adds, divided by the rank."),
    Option("lora_dropout", "LoRA dropout", "Share of the inputs that training leaves out at random."),
    Option("target_modules", "LoRA layers", "Names of the layers that are trained, with commas between them."),
    Option(
        "dtype",
        "Number format of the base weights",
        "auto: bfloat16 where the device computes in it, else float32.",
        choices=("auto", "float32", "bfloat16"),
    ),
    Option("seed", "First seed", "The same seed repeats the same run; further runs take the numbers after it."),
)
"""Settings that few audits change."""

OPTIONS = (*MAIN, *ADVANCED)
"""All settings that the form shows."""
