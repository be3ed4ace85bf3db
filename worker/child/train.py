"""The step `train:{seed}`: trains once and leaves what it recorded of every sample."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.contract.failure import ErrorCode
from service.contract.protocol import CHECKPOINTS_FOLDER, RECORDING_FILE, ROWS_FILE, MetricEvent, Stage
from service.contract.spec import MIN_DIFFERENT_SAMPLES, Probe, StepSpec, TrainingConfig
from worker.child.control import StopRequest
from worker.child.conversations import Conversations
from worker.child.device import forbid_tf32, training_device
from worker.child.events import Reporter
from worker.child.token_split import split_tokens
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import Directions, ProbeShape, plan
from worker.results.recording import Recording, RunFacts
from worker.text.duplicate_clusters import count_different
from worker.text.probe_folds import probe_folds
from worker.training.checkpointing.identity import run_identity
from worker.training.checkpointing.manager import Checkpoints
from worker.training.checkpointing.state import TrainingRun
from worker.training.encoded_samples import EncodedSamples
from worker.training.encoding import encode_rows
from worker.training.errors import TrainingError
from worker.training.fitness import check_encoded, check_trainable
from worker.training.loop import BETAS, steps_of, train
from worker.training.lora import with_lora
from worker.training.measurement import EncodedProbe
from worker.training.models import embedding_count, load_model, pad_id, position_count, training_dtype
from worker.training.out_of_memory import out_of_memory_told, smaller_weights
from worker.training.rendering import RefusedRowError
from worker.training.tokenization import TokenizedSample, encode

PACKAGES = ("finetooth", "torch", "transformers", "peft", "accelerate")
"""Packages whose versions are recorded: another one may give other numbers."""


def train_seed(folder: Path, spec: StepSpec, reporter: Reporter, request: StopRequest) -> None:
    """Train on the folder's rows and write recording.npz.

    Args:
        folder: Holds the rows, and the checkpoints of an earlier attempt; the recording is left in it.
        spec: What to train, and the probes to measure.
        reporter: Is told how far the step is.
        request: Is looked at between steps; when made, the run is saved and stopped.

    Raises:
        TrainingError: The spec cannot be trained on, or the training failed.
        StoppedError: The run was asked to stop for later.
        OSError: A file cannot be read or written.
    """
    config = spec.training
    device = training_device()
    forbid_tf32()
    cache = Path(os.environ.get("FINETOOTH_CACHE_DIR", folder)) / "models"
    with out_of_memory_told(partial(smaller_weights, config)):
        base, tokenizer = load_model(spec.model, config, device, cache=cache)
        pad, embeddings, positions = pad_id(tokenizer, base), embedding_count(base), position_count(base)
        model = with_lora(base, config).to(device)

    conversations = Conversations(folder / ROWS_FILE)
    reporter.stage(Stage.TOKENIZING, len(conversations), "samples")
    probes = [encoded_probe(probe, tokenizer, config) for probe in spec.probes]
    samples, encoding = encode_rows(
        conversations,
        tokenizer,
        max_length=config.max_length,
        turns=config.audit_turns,
        on_row=lambda done: reporter.progress(done, len(conversations), "samples"),
    )
    check_encoded(samples, probes, embeddings=embeddings, positions=positions)
    has_loss = samples.has_loss()
    trained_on = compress(conversations, has_loss.tolist())
    check_trainable(samples, count_different(trained_on, MIN_DIFFERENT_SAMPLES), config)

    # The same placebos in every seed, so that they can be pooled like the probe itself.
    recorder = Recorder(lora_layers(model), directions_of(spec.probes, seed=spec.seeds[0]))
    trained = int(has_loss.sum())
    checkpoints = Checkpoints(
        folder / CHECKPOINTS_FOLDER,
        run_identity(spec, folder / ROWS_FILE, device, training_dtype(config, device)),
        every_seconds=spec.checkpoint_seconds,
        tell=reporter.event,
        stop_asked=request.made,
    )
    request.will_be_heeded()
    reporter.stage(Stage.TRAINING, steps_of(trained, config), "steps")
    outcome = train(
        model,
        samples,
        config,
        pad=pad,
        probes=probes,
        recorder=recorder,
        on_step=_told_to(reporter),
        tell=reporter.event,
        checkpoints=checkpoints,
        spool=folder,
    )
    facts = RunFacts(
        steps=outcome.steps,
        tokens=outcome.tokens,
        refreshes=outcome.measurements,
        momentum=BETAS[0],
        rows_truncated=encoding.answers_cut.count,
        encoding=encoding,
        train_loss_first=outcome.losses[0],
        train_loss_last=outcome.losses[-1],
        device=torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        versions={name: version(name) for name in PACKAGES},
        seconds={},
    )
    recording = _recording(recorder, outcome, facts, samples)
    split, obstacle = split_tokens(
        model, tokenizer, recorder, recording, samples, conversations, config, reporter, pad=pad, device=device
    )
    del samples  # They would be held beside what is written.
    reporter.close()
    seconds = {**reporter.seconds, Stage.TRAINING.value: outcome.seconds}
    facts = facts.model_copy(update={"seconds": seconds, "split_obstacle": obstacle})
    replace(recording, facts=facts, split=split).save(folder / RECORDING_FILE)


def directions_of(probes: Sequence[Probe], *, seed: int) -> Directions:
    """Plan all directions of an audit; items that share sentences are held out together.

    Args:
        probes: The audit's probes.
        seed: Seed of the placebo directions.
    """
    shapes = []
    for probe in probes:
        folds = probe_folds([(item.prompt, item.unwanted, item.reference) for item in probe.items])
        has_reference = all(item.reference is not None for item in probe.items)
        shapes.append(ProbeShape(folds, has_reference=has_reference))
    return plan(shapes, seed=seed)


def encoded_probe(probe: Probe, tokenizer: Any, config: TrainingConfig) -> EncodedProbe:
    """Return a probe as tokens.

    Args:
        probe: Its items become conversations of one question and one answer, which alone has loss.
        tokenizer: The model's.
        config: Says how long a conversation may be.

    Raises:
        TrainingError: An item cannot be encoded, or its answer lies beyond max_length.
    """

    def side(answers: Sequence[str]) -> list[TokenizedSample]:
        turns = [
            [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": answer}]
            for item, answer in zip(probe.items, answers, strict=True)
        ]
        return [item(number, turn) for number, turn in enumerate(turns, 1)]

    def item(number: int, turn: Sequence[dict[str, str]]) -> TokenizedSample:
        try:
            return encode(turn, tokenizer, max_length=config.max_length)
        except RefusedRowError as error:
            raise TrainingError(
                ErrorCode.BAD_CONFIG,
                f"Item {number} of the probe {probe.name!r} cannot be encoded for this model: {error}.",
                "Change the item, or use another model or a base model without a chat template.",
            ) from error

    references = [item.reference for item in probe.items if item.reference is not None]
    encoded = EncodedProbe(
        side([item.unwanted for item in probe.items]),
        side(references) if len(references) == len(probe.items) else (),
    )
    sides = zip(*encoded.sides, strict=True)
    beyond = [number for number, item in enumerate(sides, start=1) if not all(sample.has_loss for sample in item)]
    if beyond:
        which = f"item {beyond[0]}" if len(beyond) == 1 else f"{len(beyond)} items, the first of them item {beyond[0]},"
        raise TrainingError(
            ErrorCode.BAD_CONFIG,
            f"An answer of the probe {probe.name!r} begins beyond training.max_length "
            f"({config.max_length} tokens): {which} has too long a prompt.",
            "Raise training.max_length, or shorten the prompt.",
        )
    return encoded


def _told_to(reporter: Reporter) -> Any:
    first: tuple[int, float] | None = None

    def on_step(metric: MetricEvent, total: int) -> None:
        nonlocal first
        reporter.event(metric)
        left = None
        if first is None:
            # This process's first step comes with the libraries' warm-up: no measure of the others.
            first = metric.step, time.monotonic()
        else:
            left = (time.monotonic() - first[1]) / (metric.step - first[0]) * (total - metric.step)
        reporter.progress(metric.step, total, "steps", left)

    return on_step


def _recording(recorder: Recorder, outcome: TrainingRun, facts: RunFacts, samples: EncodedSamples) -> Recording:
    observations, steps, product, gradient_norm = recorder.take_result()
    directions, found = recorder.directions, outcome.by_products
    inner, turns, loss, similarity = (
        found.inner.whole(),
        found.turns.whole(),
        found.loss.take(),
        found.similarity.take(),
    )
    assert inner is not None
    assert turns is not None
    assert loss is not None
    assert similarity is not None
    blocks = recorder.item_alignment
    return Recording(
        observations=observations,
        steps=steps,
        kind=directions.kind,
        probe=directions.probe,
        held_out=directions.held_out,
        item_alignment=tuple(
            np.stack([block[number] for block in blocks]) for number in range(len(directions.held_out))
        ),
        coefficients=directions.coefficients,
        inner=inner.numpy(),
        turns=turns.numpy(),
        inner_items=tuple(torch.stack(measured).cpu().numpy() for measured in zip(*found.inner_items, strict=True)),
        product=product,
        gradient_norm=gradient_norm,
        loss=loss,
        similarity=similarity,
        measured_at=np.array(found.measured_at, dtype=np.int64),
        probe_loss=np.stack(found.probe_loss),
        tokens_left_out=samples.tokens_left_out(),
        facts=facts,
    )
