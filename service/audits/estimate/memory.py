"""What an audit holds on the device that it trains on: weights, LoRA, the probes, and the activations of a pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.audits.estimate.schemas import Memory
from service.contract.results import Caution
from service.contract.spec import TrainingConfig
from service.models.shapes import Shape

FOLDS = 5
"""The most groups into which a probe's items are cut, each held out once (worker.text.probe_folds)."""

PLACEBOS = 20
"""Placebo directions of an audit (worker.influence.directions)."""

MIN_PLACEBOS = 5
"""The fewest placebo directions of a probe (worker.influence.directions)."""

ITEMS_AT_ONCE = 16
"""Probe items in one pass on a GPU (worker.training.measurement)."""

KEPT = 2
"""Bytes of a number of a direction or an item's gradient on a GPU (worker.influence.capture.layer_stacks)."""

GB = 1e9
"""Bytes of a gigabyte, as makers of GPUs count."""


@dataclass(frozen=True)
class Lengths:
    """A dataset's texts in characters, from its statistics."""

    mean: float
    """Characters of a sample on average."""
    longest: int
    """Characters of the longest sample."""
    answer_share: float
    """The share of all characters that stand in answers."""
    turns: float
    """Turns of a sample on average."""


@dataclass(frozen=True)
class ProbeSize:
    """What of a probe decides about memory."""

    items: int
    sides: int
    """2 where every item has a reference answer, else 1."""
    longest: int
    """Tokens of the longest item."""
    answer_share: float
    """The largest share of an item's tokens that its answer has."""


def memory_of(
    shape: Shape | None,
    training: TrainingConfig,
    longest: int | None,
    lengths: Lengths | None,
    probes: Sequence[ProbeSize],
    *,
    largest_worker: int | None = None,
) -> Memory:
    """Count by the model's shape, on a GPU.

    Args:
        shape: None: it is not known.
        training: How the model is trained.
        longest: Tokens of the longest sample, after truncation; None: not known.
        lengths: Lengths of the dataset's samples; None: not known.
        probes: That are measured.
        largest_worker: Bytes of memory of the largest worker that is alive; None: there is none, or it is not known.
    """
    if shape is None:
        basis = "the model's shape is not known here: it is neither pre-registered nor a local folder of a Llama model"
        return Memory(largest_worker=largest_worker, basis=basis)
    wide = training.dtype == "float32"
    weights = shape.parameters * (4 if wide else 2)
    unknown = [name for name in training.target_modules if name not in shape.linear]
    notes = [f"{shape.parameters:,} parameters in {'float32' if wide else 'bfloat16'}"]
    if training.dtype == "auto":
        notes.append("a device that does not compute in bfloat16 needs twice as much for weights")
    if unknown:
        notes.append(f"nothing is known of the target module {unknown[0]}")
        return Memory(weights=weights, largest_worker=largest_worker, basis="; ".join(notes))
    trained, aligned = lora_parameters(shape, training)
    lora = 16 * trained
    notes.append(f"{trained:,} LoRA parameters in float32 with gradient and two moments")
    held, measuring = probe_bytes(trained, aligned, probes)
    measured = max(held, measuring)
    directions, items = directions_of(probes), max(probe.items * probe.sides for probe in probes)
    notes.append(
        f"probes: at most {directions} directions, and the gradients of {items} items while a probe is measured, one "
        "probe at a time"
    )
    # Weights and moments of LoRA, and the directions; signals come on top.
    checkpoint = 12 * trained + held - 4 * trained
    known = {"weights": weights, "lora": lora, "probes": measured, "checkpoint": checkpoint}
    if longest is None or lengths is None:
        notes.append("activations need the lengths of the samples")
        return Memory(**known, largest_worker=largest_worker, basis="; ".join(notes))
    again = ", of which all but one keep their input alone" if training.gradient_checkpointing else ""
    learnt = 1.0 if training.audit_turns == "all" else lengths.answer_share
    samples = min(training.batch_size, training.micro_batch_size or training.batch_size)
    passes = [(samples, longest, token_bytes(shape, training, learnt))]
    for probe in probes:
        at_once = min(probe.items, ITEMS_AT_ONCE, training.micro_batch_size or ITEMS_AT_ONCE)
        tokens = min(probe.longest, training.max_length)
        passes.append((at_once, tokens, token_bytes(shape, training, probe.answer_share)))
    activations = round(max(count * tokens * token for count, tokens, token in passes))
    single = round(max(tokens * token for _, tokens, token in passes))
    notes.append(
        f"activations of {samples} samples of {longest} tokens at once, if all were as long as the longest, or of a "
        "pass over probe items, whichever is more: tensors kept for the backward pass, by a count on Llama layers"
        f"{again}; the framework and what the allocator wastes come on top. With less memory, passes have fewer "
        "samples, down to one: the least is what that takes"
    )
    fixed = weights + lora + measured
    return Memory(
        **known,
        activations=activations,
        total=fixed + activations,
        least=fixed + single,
        largest_worker=largest_worker,
        basis="; ".join(notes),
    )


def memory_cautions(memory: Memory) -> list[Caution]:
    """Say where no worker that is alive has the least memory that the audit needs."""
    if memory.least is None or memory.largest_worker is None or memory.least <= memory.largest_worker:
        return []
    return [
        Caution(
            code="too_little_memory",
            message=f"It needs {memory.least / GB:.1f} GB of memory at least, and the largest worker has "
            f"{memory.largest_worker / GB:.1f} GB. Set gradient_checkpointing to true where it is not, lower "
            "max_length or lora_r, take fewer target_modules or a smaller model, audit fewer probes at once, or start "
            "a worker with more memory.",
        )
    ]


def lora_parameters(shape: Shape, training: TrainingConfig) -> tuple[int, int]:
    """Count the parameters of all LoRA layers, and of the lora_B layers among them, which alignments are taken over.

    Args:
        shape: The shape of the model.
        training: Which of its layers get LoRA, and of which rank.

    Returns:
        The number in all layers, and the number in lora_B layers.
    """
    wrapped = [shape.linear[name] for name in training.target_modules]
    each = shape.num_hidden_layers * training.lora_r
    return each * sum(inputs + outputs for inputs, outputs in wrapped), each * sum(outputs for _, outputs in wrapped)


def directions_of(probes: Sequence[ProbeSize]) -> int:
    """Count the directions that samples are compared with, at most."""
    placebos = max(MIN_PLACEBOS, -(-PLACEBOS // len(probes)))
    return sum(
        probe.sides * (1 + (min(FOLDS, probe.items) if probe.items > 1 else 0)) + (placebos if probe.items > 1 else 0)
        for probe in probes
    )


def probe_bytes(trained: int, aligned: int, probes: Sequence[ProbeSize]) -> tuple[int, int]:
    """Count what the probes take between two measurements, and while one is measured, without activations.

    Args:
        trained: Number of LoRA parameters.
        aligned: Number of those that lora_B layers have.
        probes: The probes that are measured. The worker's tests hold this against what its recorder holds.

    Returns:
        Bytes between two measurements, and bytes during one.
    """
    targets = sum(probe.sides for probe in probes)
    items = max(probe.items * probe.sides for probe in probes)
    directions = KEPT * directions_of(probes) * aligned
    held = 4 * (trained * (targets + 1) + aligned) + directions
    measuring = 4 * (trained * (2 * targets + 3) + 2 * aligned) + directions + KEPT * items * aligned
    return held, measuring


def activation_bytes(shape: Shape, training: TrainingConfig) -> int:
    """Count what one layer keeps of each token for the backward pass. The worker's tests hold it against PyTorch.

    Args:
        shape: The shape of the model.
        training: Which of its layers get LoRA, and the precision.

    Returns:
        Bytes a token.
    """
    hidden, inner, key_value = shape.hidden_size, shape.intermediate_size, shape.key_value_size
    targets = set(training.target_modules)
    if training.dtype != "float32":
        # LoRA works in float32, so that each wrapped layer keeps a copy of its input.
        copies = sum(4 * shape.linear[name][0] for name in targets)
        return 12 * hidden + 4 * key_value + 6 * inner + copies
    attention = 4 * hidden if targets & {"q_proj", "k_proj", "v_proj"} else 0
    mlp = 4 * hidden if targets & {"gate_proj", "up_proj"} else 0
    down = 4 * inner if "down_proj" in targets else 0
    return 16 * hidden + 8 * key_value + 12 * inner + attention + mlp + down


def token_bytes(shape: Shape, training: TrainingConfig, learnt: float) -> float:
    """Count what a pass keeps of a token for its backward pass.

    Args:
        shape: The shape of the model.
        training: How it is trained.
        learnt: Share of tokens that have loss.
    """
    # Logits in the model's type, in float32, and the softmax; formed where a token with loss is predicted only.
    size = 4 if training.dtype == "float32" else 2
    logits = learnt * shape.vocab_size * (size + 8)
    layer = activation_bytes(shape, training)
    if training.gradient_checkpointing:
        # Every layer's input, and one layer's activations, computed again.
        return shape.num_hidden_layers * size * shape.hidden_size + layer + logits
    return shape.num_hidden_layers * layer + logits
