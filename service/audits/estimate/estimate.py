"""What an audit would cost: steps, tokens, memory and time, each with what it rests on, and what speaks against it."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import Integer, select
from sqlalchemy.orm import Session

from service.audits.estimate.cautions import audit_cautions, probe_cautions
from service.audits.estimate.schemas import DeviceTime, Estimate, Memory, Steps, Time, Tokens
from service.audits.schemas import AuditCreate
from service.contract.protocol import Stage
from service.contract.results import Caution
from service.contract.spec import TrainingConfig
from service.lifecycle.workers import live_workers
from service.models.shapes import Shape, shape_of
from service.principal import Principal
from service.scoping import owned
from service.store.stored_rows import StoredRows
from service.store.tables import Audit, Dataset, Model

CHARACTERS_A_TOKEN = 4.0
"""Of English text, roughly; other languages and code have fewer."""

TOKENS_A_TURN = 5
"""That a chat template adds, roughly."""

PAST_AUDITS = 20
"""The newest ones are asked how long they took."""


@dataclass(frozen=True)
class Past:
    """What a succeeded audit on the same model says of itself."""

    id: str
    dataset_id: str
    training: dict[str, Any]
    device: str
    seconds: dict[str, float]
    tokens: int
    """Of one seed, all epochs."""
    seeds: int


@dataclass(frozen=True)
class Lengths:
    """A dataset's texts in characters, from its statistics."""

    mean: float
    """Of a sample."""
    longest: int
    """At most."""
    answer_share: float
    turns: float
    """Mean of a sample."""


def estimate_audit(
    session: Session,
    principal: Principal,
    body: AuditCreate,
    model: Model,
    *,
    rows: StoredRows,
    heartbeat_seconds: float,
) -> Estimate:
    """Say what an audit would cost, and what speaks against it; nothing is written.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: The request, which has been checked.
        model: What it would train.
        rows: Where the dataset's first samples are read.
        heartbeat_seconds: How often a worker says that it is alive.
    """
    dataset = session.get_one(Dataset, body.dataset_id)
    past = past_audits(session, principal, model)
    lengths = lengths_of(dataset.statistics)
    tokens = tokens_of(dataset, lengths, body.training, body.seeds, past)
    workers = live_workers(session, heartbeat_seconds=heartbeat_seconds)
    cautions = [
        *audit_cautions(
            dataset,
            body,
            longest=None if lengths is None else _tokens(lengths.longest, lengths.turns),
            mean=None if lengths is None else _tokens(lengths.mean, lengths.turns),
        ),
        *probe_cautions(session, principal, body, rows),
    ]
    if not any(worker.lane == "gpu" for worker in workers):
        cautions.append(Caution(code="no_worker", message="No GPU worker is alive: the audit would wait for one."))
    return Estimate(
        rows=dataset.rows,
        steps=steps_of(dataset.rows, body.training, body.seeds),
        tokens=tokens,
        memory=memory_of(shape_of(model), body.training, tokens.longest, lengths),
        time=time_of(tokens.total, past),
        warnings=cautions,
    )


def past_audits(session: Session, principal: Principal, model: Model) -> list[Past]:
    """The workspace's newest audits on the model that have succeeded."""
    summary = Audit.summary
    assert summary is not None
    query = (
        select(
            Audit.id,
            Audit.dataset_id,
            Audit.training,
            summary["device"].astext,
            summary["seconds"],
            summary["tokens"].astext.cast(Integer),
            Audit.seeds,
        )
        .where(
            owned(Audit, principal),
            Audit.model_id == model.id,
            Audit.published_attempt.is_not(None),
        )
        .order_by(Audit.id.desc())
        .limit(PAST_AUDITS)
    )
    return [Past(*row) for row in session.execute(query)]


def lengths_of(statistics: dict[str, Any]) -> Lengths | None:
    """None where the dataset's statistics hold no lengths."""
    try:
        prompt, answer = statistics["prompt_characters"], statistics["answer_characters"]
        mean = prompt["mean"] + answer["mean"]
        turns = sum(entry["turns"] * entry["rows"] for entry in statistics["turns"]) / statistics["rows"]
        share = answer["mean"] / mean if mean else 1.0
        return Lengths(mean=mean, longest=prompt["max"] + answer["max"], answer_share=share, turns=turns)
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def steps_of(rows: int, training: TrainingConfig, seeds: int) -> Steps:
    """Exact but for samples that truncation leaves without a turn to learn from."""
    each = training.epochs * math.ceil(rows / training.batch_size)
    basis = (
        f"{training.epochs} epochs of {rows} samples in batches of {training.batch_size}, {seeds} times; samples that "
        "truncation leaves without a turn to learn from are skipped"
    )
    return Steps(per_seed=each, total=each * seeds, basis=basis)


def tokens_of(
    dataset: Dataset, lengths: Lengths | None, training: TrainingConfig, seeds: int, past: Sequence[Past]
) -> Tokens:
    """Counted by an earlier audit of the same data, else from characters."""
    longest = None if lengths is None else min(training.max_length, _tokens(lengths.longest, lengths.turns))
    for audit in past:
        turns = audit.training.get("audit_turns", "assistant")
        same = (audit.training["max_length"], turns) == (training.max_length, training.audit_turns)
        if audit.dataset_id == dataset.id and same:
            each = audit.tokens / audit.training["epochs"]
            total = round(each * training.epochs * seeds)
            basis = f"counted by audit {audit.id} on the same dataset, model, max_length and audit_turns"
            return Tokens(per_epoch=round(each), total=total, longest=longest, basis=basis)
    if lengths is None:
        return Tokens(per_epoch=None, total=None, longest=None, basis="the dataset has no statistics of lengths")
    each = dataset.rows * min(training.max_length, _tokens(lengths.mean, lengths.turns))
    basis = (
        f"assumed: {CHARACTERS_A_TOKEN:g} characters a token, which suits English, and {TOKENS_A_TURN} tokens a turn "
        f"for the chat template; the mean sample has {lengths.mean:.0f} characters; at most max_length each"
    )
    return Tokens(per_epoch=each, total=each * training.epochs * seeds, longest=longest, basis=basis)


def memory_of(shape: Shape | None, training: TrainingConfig, longest: int | None, lengths: Lengths | None) -> Memory:
    """By the model's shape. Activations are what PyTorch keeps for the backward pass, without checkpointing."""
    if shape is None:
        basis = "the model's shape is not known here: it is neither pre-registered nor a local folder of a Llama model"
        return Memory(weights=None, lora=None, activations=None, total=None, basis=basis)
    wide = training.dtype == "float32"
    weights = shape.parameters * (4 if wide else 2)
    unknown = [name for name in training.target_modules if name not in shape.linear]
    notes = [f"{shape.parameters:,} parameters in {'float32' if wide else 'bfloat16'}"]
    if training.dtype == "auto":
        notes.append("a device that does not compute in bfloat16 needs twice as much for weights")
    if unknown:
        notes.append(f"nothing is known of the target module {unknown[0]}")
        return Memory(weights=weights, lora=None, activations=None, total=None, basis="; ".join(notes))
    wrapped = [shape.linear[name] for name in training.target_modules]
    trained = shape.num_hidden_layers * training.lora_r * sum(inputs + outputs for inputs, outputs in wrapped)
    lora = 16 * trained
    notes.append(f"{trained:,} LoRA parameters in float32 with gradient and two moments")
    if longest is None or lengths is None:
        notes.append("activations need the lengths of the samples")
        return Memory(weights=weights, lora=lora, activations=None, total=None, basis="; ".join(notes))
    samples = min(training.batch_size, training.micro_batch_size or training.batch_size)
    positions = samples * longest
    layers = shape.num_hidden_layers * activation_bytes(shape, training)
    # Logits in the model's type, in float32, and the softmax; formed where a token with loss is predicted only.
    learnt = 1.0 if training.audit_turns == "all" else lengths.answer_share
    logits = learnt * shape.vocab_size * ((4 if wide else 2) + 8)
    activations = round(positions * (layers + logits))
    notes.append(
        f"activations of {samples} samples of {longest} tokens at once, if all were as long as the longest: tensors "
        "kept for the backward pass, by a count on Llama layers; the measurement's own tensors, the framework and "
        "what the allocator wastes come on top"
    )
    total = weights + lora + activations
    return Memory(weights=weights, lora=lora, activations=activations, total=total, basis="; ".join(notes))


def activation_bytes(shape: Shape, training: TrainingConfig) -> int:
    """Kept for the backward pass of one layer, a token. The worker's tests hold it against what PyTorch keeps."""
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


def time_of(tokens: int | None, past: Sequence[Past]) -> Time:
    """From what past audits took: their training by tokens, everything else as it was."""
    if not past:
        return Time(devices=[], basis="no audit on this model has succeeded in this workspace yet")
    if tokens is None:
        return Time(devices=[], basis="the number of tokens is not known")
    rates: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for audit in past:
        training = audit.seconds.get(Stage.TRAINING, 0.0)
        if training > 0 and audit.tokens > 0:
            rest = sum(audit.seconds.values()) - training
            rates[audit.device].append((training / (audit.tokens * audit.seeds), rest))
    if not rates:
        return Time(devices=[], basis="past audits on this model say nothing of their time")
    devices = [
        DeviceTime(
            device=device,
            seconds=round(median(rate for rate, _ in found) * tokens + median(rest for _, rest in found), 1),
            audits=len(found),
        )
        for device, found in sorted(rates.items())
    ]
    basis = (
        f"the newest audits on this model (at most {PAST_AUDITS}): median training time a token, whatever else they "
        "trained with, and median time of everything else; time in the queue is not part of it"
    )
    return Time(devices=devices, basis=basis)


def _tokens(characters: float, turns: float) -> int:
    return math.ceil(characters / CHARACTERS_A_TOKEN + TOKENS_A_TURN * turns)
