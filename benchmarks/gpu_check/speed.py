"""How long a step takes: A, the plain loop, against C, the same loop with a recorder."""

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.shapes import Shape, random_model
from benchmarks.overhead import ALL_LINEAR, Baton, Enough
from service.contract.spec import TrainingConfig
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import ProbeShape, plan
from worker.training.loop import train
from worker.training.lora import with_lora
from worker.training.measurement import EncodedProbe
from worker.training.tokenization import IGNORED, TokenizedSample

TURN = 10
"""Steps that a run takes before it is the other's turn."""

ITEMS = 12


@dataclass(frozen=True)
class Case:
    """A row of the speed table."""

    name: str
    training: TrainingConfig
    length: int
    """Tokens of a sample, on average."""
    samples: int
    """Of the whole run, of which the steps timed are the beginning. With `probe_length` it decides when the probe is
    measured, which must not be in every turn."""
    probe_length: int
    """Tokens of a probe item, on average."""


def cases(shape: Shape) -> list[Case]:
    """What is timed."""
    rate: dict[str, Any] = {"learning_rate": 1e-4, "dtype": shape.dtype}
    wide = {"target_modules": ALL_LINEAR, "lora_r": 16}
    short = Case("short, q and v, r=8", TrainingConfig(**rate), 95, 1000, 60)
    if shape.name == "tiny":
        return [short]
    long = TrainingConfig(**rate, **wide, batch_size=2, micro_batch_size=1, max_length=2048)
    return [
        short,
        Case("short, all linear, r=16", TrainingConfig(**rate, **wide), 95, 1000, 60),
        Case("2,048 tokens, all linear, r=16, batches of 2", long, 2048, 200, 700),
    ]


def check_speed(report: Report, shape: Shape, device: torch.device) -> None:
    """Medians over turns of ten steps, without the first turn and without those that measured the probe."""
    for case in cases(shape):
        if report.late:
            report.not_measured(case.name, "the time of the check was used up")
            continue
        baton = _timed(shape, case, device)
        plain, recorded = (np.array(baton.seconds[name][1:]) for name in ("A", "C"))
        measured = np.array(baton.measured["C"][1:])
        a = float(np.median(plain))
        c, with_measurement = (
            float(np.median(recorded[mask])) if mask.any() else float("nan") for mask in (~measured, measured)
        )
        report.checked(
            case.name,
            a > 0 and not np.isnan(c),
            f"A {1e3 * a:.1f} ms a step, C {1e3 * c:.1f} ms, C / A {c / a:.3f}; {int((~measured).sum())} turns. With a "
            f"measurement in ten steps {with_measurement / a:.3f}",
            a_seconds=plain.tolist(),
            c_seconds=recorded.tolist(),
            c_measured=measured.tolist(),
            ratio=c / a,
        )
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds since some moment: on a GPU by CUDA events, once all that was launched has run."""
    if device.type == "cpu":
        return time.perf_counter
    first = torch.cuda.Event(enable_timing=True)
    first.record()

    def seconds() -> float:
        now = torch.cuda.Event(enable_timing=True)
        now.record()
        now.synchronize()
        return first.elapsed_time(now) / 1e3

    return seconds


def _timed(shape: Shape, case: Case, device: torch.device) -> Baton:
    baton = Baton(["A", "C"], shape.turns, clock_of(device), turn=TURN)
    baton.play(lambda name, on_step: _run(shape, case, device, name == "C", on_step))
    return baton


def _run(shape: Shape, case: Case, device: torch.device, recorded: bool, on_step: Callable[..., None]) -> None:
    model = with_lora(random_model(shape, device), case.training).to(device)
    vocabulary = shape.fields["vocab_size"]
    samples = _samples(case.samples, case.length, vocabulary)
    probe = EncodedProbe(*(_samples(ITEMS, case.probe_length, vocabulary, seed=seed) for seed in (1, 2)))
    directions = plan([ProbeShape(np.arange(ITEMS) % 4, has_reference=True)], seed=0)
    with suppress(Enough):
        train(
            model,
            samples,
            case.training,
            pad=0,
            probes=[probe] if recorded else [],
            recorder=Recorder(lora_layers(model), directions) if recorded else None,
            on_step=on_step,
        )


def _samples(count: int, length: int, vocabulary: int, *, seed: int = 0) -> list[TokenizedSample]:
    """Half of each is a prompt; short ones vary by half of their length."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        own = length if length >= 2048 else int(rng.integers(length // 2, length + length // 2))
        ids = rng.integers(3, vocabulary, own).tolist()
        found.append(TokenizedSample(tuple(ids), tuple([IGNORED] * (own // 2) + ids[own // 2 :])))
    return found
