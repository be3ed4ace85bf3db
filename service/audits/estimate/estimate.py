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
from service.audits.estimate.memory import Lengths, ProbeSize, memory_cautions, memory_of
from service.audits.estimate.schemas import DeviceTime, Estimate, Steps, Time, Tokens
from service.audits.schemas import AuditCreate
from service.contract.protocol import Stage
from service.contract.results import Caution
from service.contract.spec import TrainingConfig
from service.lifecycle.workers import live_workers
from service.models.shapes import shape_of
from service.principal import Principal
from service.scoping import owned
from service.store.stored_rows import StoredRows
from service.store.tables import Audit, Dataset, Model, Probe

CHARACTERS_A_TOKEN = 4.0
"""Roughly what English text has; other languages and code have fewer."""

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
    """Tokens that one seed was trained on, in all epochs."""
    seeds: int


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
    memory = memory_of(
        shape_of(model),
        body.training,
        tokens.longest,
        lengths,
        probe_sizes(session, principal, body),
        largest_worker=max((w.memory_bytes for w in workers if w.lane == "gpu" and w.memory_bytes), default=None),
    )
    cautions = [
        *audit_cautions(
            dataset,
            body,
            longest=None if lengths is None else _tokens(lengths.longest, lengths.turns),
            mean=None if lengths is None else _tokens(lengths.mean, lengths.turns),
        ),
        *probe_cautions(session, principal, body, rows),
        *memory_cautions(memory),
    ]
    if not any(worker.lane == "gpu" for worker in workers):
        cautions.append(Caution(code="no_worker", message="No GPU worker is alive: the audit would wait for one."))
    return Estimate(
        rows=dataset.rows,
        steps=steps_of(dataset.rows, body.training, body.seeds),
        tokens=tokens,
        memory=memory,
        time=time_of(tokens.total, past),
        warnings=cautions,
    )


def probe_sizes(session: Session, principal: Principal, body: AuditCreate) -> list[ProbeSize]:
    """Read how large the probes of an audit to create are.

    Args:
        session: An open transaction.
        principal: Who asks.
        body: The audit to create.
    """
    query = select(Probe.items, Probe.has_reference).where(owned(Probe, principal), Probe.id.in_(body.probe_ids))
    found = []
    for items, has_reference in session.execute(query):
        longest, answer_share = 0, 0.0
        for item in items:
            for answer in filter(None, (item["unwanted"], item.get("reference"))):
                tokens = _tokens(len(item["prompt"]) + len(answer), 2)
                longest = max(longest, tokens)
                answer_share = max(answer_share, _tokens(len(answer), 1) / tokens)
        found.append(ProbeSize(len(items), 2 if has_reference else 1, longest, answer_share))
    return found


def past_audits(session: Session, principal: Principal, model: Model) -> list[Past]:
    """Read the workspace's newest audits on a model that have succeeded.

    Args:
        session: An open transaction.
        principal: Who asks.
        model: The model, one of the workspace's.
    """
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
    """Count the optimiser steps, exactly but for samples that truncation leaves without a turn to learn from.

    Args:
        rows: Samples of the dataset.
        training: How each run trains.
        seeds: How many runs there are.
    """
    each = training.epochs * math.ceil(rows / training.batch_size)
    basis = (
        f"{training.epochs} epochs of {rows} samples in batches of {training.batch_size}, {seeds} times; samples that "
        "truncation leaves without a turn to learn from are skipped"
    )
    return Steps(per_seed=each, total=each * seeds, basis=basis)


def tokens_of(
    dataset: Dataset, lengths: Lengths | None, training: TrainingConfig, seeds: int, past: Sequence[Past]
) -> Tokens:
    """Count the tokens of an audit, as an earlier one of the same data did, or else estimated from characters.

    Args:
        dataset: The dataset.
        lengths: How long its samples are; None: not known.
        training: How each run trains.
        seeds: How many runs there are.
        past: What `past_audits` found.
    """
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


def time_of(tokens: int | None, past: Sequence[Past]) -> Time:
    """Estimate an audit's time on each device that past ones ran on: training by tokens, all else as it was.

    Args:
        tokens: Tokens that are trained on, of all seeds together; None: not known.
        past: What `past_audits` found.
    """
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
