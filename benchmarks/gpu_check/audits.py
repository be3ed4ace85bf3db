"""Audits of children: killed, resumed, told to save and stop, short of memory, and what they find."""

import os
import shutil
import signal
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.detection import DEMO_MODEL
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.shapes import Shape
from benchmarks.gpu_check.squeeze import can_squeeze, squeezed
from benchmarks.gpu_check.steps import PLANTED, Child, Children, respecify, stage
from service.contract.failure import ErrorCode
from service.contract.protocol import (
    EXIT_SAVED,
    RECORDING_FILE,
    RECORDINGS_FOLDER,
    SCORES_FILE,
    CheckpointEvent,
    MetricEvent,
    NoticeEvent,
)
from service.contract.spec import COMBINE, ModelSource, ModelSpec, TrainingConfig
from worker.results.recording import Recording
from worker.supervisor.device import read_device
from worker.training.batches import batches
from worker.training.loop import steps_of, warm_up_of

ROWS = 64
BATCH = 8

CLOSE = 0.99
"""Correlation of the alignments of two runs on a GPU, whose sums run in another order each time."""

FREED_SECONDS = 15.0
"""Within which a driver gives back what a killed process had."""

SLACK = 1 << 30
"""Bytes that other processes on the GPU may take meanwhile."""

AMONG_FIRST = 0.8
"""Chance, at least, that a planted sample ranks before another one. With 12 planted of 64 it is 0.5 with a standard
deviation of 0.093 where nothing is measured (Mann and Whitney 1947), so this is beyond three of them; weights drawn at
random understand nothing, and more is not to be expected of them."""


def check_demo_model(report: Report, children: Children, work: Path, device: torch.device) -> None:
    """A whole audit of the demo model: a training child and a combining one."""
    if device.type == "cpu":
        report.not_measured("an audit of the demo model", "takes minutes on a CPU; `finetooth demo` runs one")
        return
    folder = stage(work / "demo", DEMO_MODEL, TrainingConfig(batch_size=BATCH), rows=ROWS, length=120)
    child = children.finish(folder)
    failure = child.failure
    if failure is not None and failure.code is ErrorCode.NETWORK:
        report.not_measured("an audit of the demo model", failure.message)
        return
    report.checked("the demo model trains", (folder / RECORDING_FILE).is_file(), _ended(child))
    _check_combined(report, children, folder)


def check_interruptions(
    report: Report, children: Children, work: Path, shape: Shape, model: Path, device: torch.device
) -> None:
    """A run that was killed, resumed, told to save and stop, and resumed again is the one that was left alone."""
    training = TrainingConfig(batch_size=BATCH, dtype=shape.dtype)
    spec = ModelSpec(source=ModelSource.LOCAL, location=str(model))
    folder = stage(work / "interrupted", spec, training, rows=ROWS, length=shape.short)
    alone = work / "alone"
    shutil.copytree(folder, alone)
    undisturbed = children.finish(alone)
    report.checked("a run left alone finishes", (alone / RECORDING_FILE).is_file(), _ended(undisturbed))

    before = _memory_used(device)
    measured = warm_up_of(steps_of(ROWS, training))
    with children.running(folder) as child:
        # After the step whose beginning measured the probes for the first time.
        child.until(lambda event: isinstance(event, CheckpointEvent) and int(event.name) > measured)
        os.kill(child.process.pid, signal.SIGKILL)
        code = child.exit_code()
    report.checked("kill -9 after the first measurement", code == -signal.SIGKILL, _ended(child, code))
    after = _memory_used(device)
    until = time.monotonic() + FREED_SECONDS
    while before is not None and after is not None and after > before + SLACK and time.monotonic() < until:
        time.sleep(0.5)
        after = _memory_used(device)
    if before is None or after is None:
        report.not_measured("a killed child leaves the GPU's memory free", "no GPU")
    else:
        report.checked(
            "a killed child leaves the GPU's memory free", after <= before + SLACK, f"{after - before:+,} bytes"
        )

    with children.running(folder) as child:
        first = child.until(lambda event: isinstance(event, MetricEvent))
        child.process.save_and_stop()
        code = child.exit_code()
    resumed = first.step > measured + 1 and bool(_notices(child, "resumed"))  # type: ignore[union-attr]
    report.checked("it resumes from its checkpoint", resumed, f"at step {first.step}")  # type: ignore[union-attr]
    report.checked("told to save and stop, it does", code == EXIT_SAVED, _ended(child, code))

    child = children.finish(folder)
    whole = (folder / RECORDING_FILE).is_file()
    report.checked("it resumes again and finishes", whole and bool(_notices(child, "resumed")), _ended(child))
    _check_equal(report, Recording.load(folder / RECORDING_FILE), Recording.load(alone / RECORDING_FILE), device)
    _check_combined(report, children, folder)


def check_out_of_memory(
    report: Report, children: Children, work: Path, shape: Shape, model: Path, device: torch.device
) -> None:
    """Memory is taken from a child that trains; it halves its passes, says so, and finishes."""
    name = "it runs out of memory, halves its passes and finishes"
    if not can_squeeze(device):
        report.not_measured(name, "this system cannot take memory from another process")
        return
    training = TrainingConfig(batch_size=BATCH, dtype=shape.dtype, epochs=1)
    steps = list(batches(range(ROWS), training))
    measured = warm_up_of(len(steps))
    # Long samples come last: what they need has not been taken yet when memory becomes scarce.
    late = {row for step in steps[measured + 2 :] for row in step}
    folder = stage(
        work / "scarce",
        ModelSpec(source=ModelSource.LOCAL, location=str(model)),
        training,
        rows=ROWS,
        length=shape.short,
        long=late,
        longer=shape.long,
    )
    with children.running(folder) as child:
        child.until(lambda event: isinstance(event, MetricEvent) and event.step == measured + 1)
        with squeezed(child.process.pid, device, shape.room):
            code = child.exit_code()
    halved = _notices(child, "passes_halved")
    report.checked(
        name, code == 0 and bool(halved), halved[0] if halved else _ended(child, code), notices=halved, code=code
    )


def check_planned_passes(
    report: Report, children: Children, work: Path, shape: Shape, model: Path, device: torch.device
) -> None:
    """Steps too large for the GPU run in passes that were planned, and none runs out of memory."""
    name = "a step larger than the GPU's memory is planned in passes that fit"
    if device.type == "cpu":
        report.not_measured(name, "passes are planned by a GPU's memory alone")
        return
    rows = 24
    training = TrainingConfig(batch_size=rows // 2, dtype=shape.dtype, epochs=1, max_length=2048)
    folder = stage(
        work / "large",
        ModelSpec(source=ModelSource.LOCAL, location=str(model)),
        training,
        rows=rows,
        length=2 * training.max_length,
    )
    child = children.finish(folder)
    planned = _notices(child, "passes_planned")
    ran_out = [message for message in _notices(child, "passes_halved") if "splits alignments" not in message]
    report.checked(
        name,
        (folder / RECORDING_FILE).is_file() and bool(planned) and not ran_out,
        (ran_out or planned or [_ended(child)])[0],
    )


def _check_combined(report: Report, children: Children, folder: Path) -> None:
    recordings = folder / RECORDINGS_FOLDER
    recordings.mkdir()
    (folder / RECORDING_FILE).rename(recordings / "0.npz")
    respecify(folder, step_key=COMBINE)
    child = children.finish(folder)
    if child.failure is not None:
        report.checked("combine finds the planted samples", False, _ended(child))
        return
    table = pq.read_table(folder / SCORES_FILE, columns=["row", "rank"]).to_pydict()
    ranks = dict(zip(table["row"], table["rank"], strict=True))
    planted = np.array([ranks[row] for row in range(PLANTED)])
    others = np.array([rank for row, rank in ranks.items() if row >= PLANTED])
    before = float((planted[:, None] < others[None, :]).mean())
    report.checked(
        "combine finds the planted samples",
        before >= AMONG_FIRST,
        f"{int((planted <= PLANTED).sum())} of {PLANTED} rank first; a planted one ranks before another with "
        f"probability {before:.3f}",
        before=before,
    )


def _check_equal(report: Report, found: Recording, expected: Recording, device: torch.device) -> None:
    name = "resumed, it is the run that was left alone"
    same_draws = all(
        np.array_equal(getattr(found.observations, part), getattr(expected.observations, part))
        for part in ("row", "step")
    )
    if device.type == "cpu":
        different = [
            field.name
            for field in fields(Recording)
            if field.name not in ("observations", "steps", "facts", "split")
            and not _equal(getattr(found, field.name), getattr(expected, field.name))
        ]
        for part in ("effect", "alignment"):
            if not np.array_equal(
                getattr(found.observations, part), getattr(expected.observations, part), equal_nan=True
            ):
                different.append(part)
        report.checked(name, same_draws and not different, f"differing: {different or 'nothing'}")
        return
    own, other = found.observations.alignment, expected.observations.alignment
    recorded = np.isfinite(other).all(1) & np.isfinite(own).all(1)
    correlation = float(np.corrcoef(own[recorded].ravel(), other[recorded].ravel())[0, 1])
    report.checked(
        name,
        same_draws and correlation > CLOSE and np.array_equal(np.isnan(own), np.isnan(other)),
        f"the same draws: {same_draws}; correlation of alignments {correlation:.6f}, largest difference "
        f"{np.abs(own - other)[recorded].max():.2e}",
        correlation=correlation,
    )


def _equal(one: object, other: object) -> bool:
    try:
        np.testing.assert_equal(one, other)
    except AssertionError:
        return False
    return True


def _notices(child: Child, code: str) -> list[str]:
    return [event.message for event in child.events if isinstance(event, NoticeEvent) and event.code == code]


def _ended(child: Child, code: int | None = None) -> str:
    return child.told(child.exit_code() if code is None else code)


def _memory_used(device: torch.device) -> int | None:
    if device.type == "cpu":
        return None
    found = read_device()
    return None if found is None else found.memory_used_bytes
