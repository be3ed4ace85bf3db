"""The training child: `python -m worker.run FOLDER`. No database, no broker, no web: a local folder and two pipes.

Reads spec.json and rows.parquet from the folder, leaves scores.parquet and summary.json there, prints contract events
as JSON lines on stdout and reads commands on stdin. Exits 0 after `finished`, 1 after `failed`, and 3 when cancelled
or when stdin ends: a killed supervisor must not leave it running.
"""

import errno
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ValidationError

from service.contract import (
    COMMAND,
    ROWS_FILE,
    SCORES_FILE,
    SPEC_FILE,
    SUMMARY_FILE,
    ErrorCode,
    FailedEvent,
    Failure,
    FinishedEvent,
    MetricEvent,
    NoticeEvent,
    ProgressEvent,
    Stage,
    StepSpec,
    Summary,
)

EXIT_FAILED = 1
EXIT_STOPPED = 3
PROGRESS_SECONDS = 0.5


class Reporter:
    """Prints events; the only writer to the real stdout."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = 0.0
        self._stage: Stage | None = None
        self._started = 0.0
        self.seconds: dict[str, float] = {}

    def event(self, event: BaseModel) -> None:
        """One JSON line."""
        self._stream.write(event.model_dump_json() + "\n")
        self._stream.flush()

    def stage(self, stage: Stage, total: int | None = None, unit: str = "") -> None:
        """Begins a stage and notes how long the last one took."""
        self.close()
        self._stage, self._started, self._last = stage, time.monotonic(), 0.0
        self.event(ProgressEvent(stage=stage, done=0, total=total, unit=unit))

    def progress(self, done: int, total: int, unit: str, eta: float | None = None) -> None:
        """Progress within the stage; dropped when the last was less than half a second ago, unless it is the last."""
        assert self._stage is not None
        now = time.monotonic()
        if done < total and now - self._last < PROGRESS_SECONDS:
            return
        self._last = now
        self.event(ProgressEvent(stage=self._stage, done=done, total=total, unit=unit, eta_seconds=eta))

    def close(self) -> None:
        """Ends the stage under way."""
        if self._stage is not None:
            self.seconds[self._stage.value] = time.monotonic() - self._started
            self._stage = None


def main(folder: Path) -> int:
    """Runs one step; the process's exit code."""
    reporter = Reporter(_claim_stdout())
    threading.Thread(target=_obey, args=(sys.stdin,), daemon=True, name="commands").start()
    try:
        run(folder, reporter)
    except Exception as error:
        failure = _failure(error)
        if failure.code in (ErrorCode.INTERNAL, ErrorCode.OUT_OF_MEMORY):
            # The type and place are for the worker's log; a message could quote a sample.
            _log_place(error)
        reporter.event(FailedEvent(failure=failure))
        return EXIT_FAILED
    reporter.event(FinishedEvent())
    return 0


def run(folder: Path, reporter: Reporter) -> None:
    """Trains, records, scores and writes the files."""
    reporter.stage(Stage.LOADING)
    spec = StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    # Imported here, not above: a bad spec is answered at once, and progress is told before the seconds this takes.
    from importlib.metadata import version

    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from accelerate import Accelerator

    from worker.influence.gradients import lora_layers
    from worker.influence.recorder import Recorder
    from worker.scoring import score
    from worker.training.loop import Probe, steps_of, train
    from worker.training.models import load_model, with_lora
    from worker.training.samples import encode

    config = spec.training
    device = Accelerator().device
    cache = Path(os.environ.get("FINETOOTH_CACHE_DIR", folder)) / "models"
    base, tokenizer = load_model(spec.model, config, device, cache=cache)
    model = with_lora(base, config).to(device)

    table = pq.read_table(folder / ROWS_FILE, columns=["messages", "extra"])
    reporter.stage(Stage.TOKENIZING, len(table), "samples")
    samples = []
    for messages in table["messages"]:
        samples.append(encode(messages.as_py(), tokenizer, max_length=config.max_length))
        reporter.progress(len(samples), len(table), "samples")
    groups = _groups(table["extra"], spec.group_column)

    def sides(field: str) -> list[Any]:
        turns = [[("user", item.prompt), ("assistant", getattr(item, field))] for item in spec.probe]
        conversations = [[{"role": role, "content": text} for role, text in turn] for turn in turns]
        return [encode(conversation, tokenizer, max_length=config.max_length) for conversation in conversations]

    has_reference = all(item.reference is not None for item in spec.probe)
    probe = Probe(sides("unwanted"), sides("reference") if has_reference else ())
    if not all(sample.has_answer for side in probe.sides for sample in side):
        raise _bad_config("an answer of the probe lies beyond training.max_length", "raise training.max_length")

    recorder = Recorder(lora_layers(model), directions=len(probe.sides))
    trained = sum(sample.has_answer for sample in samples)
    reporter.stage(Stage.TRAINING, steps_of(trained, config), "steps")
    first_step_at = 0.0

    def on_step(metric: MetricEvent, total: int) -> None:
        nonlocal first_step_at
        reporter.event(metric)
        left = None
        if metric.step == 1:
            # The first step comes with the first probe gradient and the libraries' warm-up: no measure of the others.
            first_step_at = time.monotonic()
        else:
            left = (time.monotonic() - first_step_at) / (metric.step - 1) * (total - metric.step)
        reporter.progress(metric.step, total, "steps", left)

    outcome = train(model, samples, config, pad=tokenizer.pad_token_id, probe=probe, recorder=recorder, on_step=on_step)
    reporter.stage(Stage.SCORING, len(samples), "samples")
    observations, steps = recorder.result()
    result = score(observations, steps, rows=len(samples), q=spec.q, groups=groups)
    for caution in result.cautions:
        reporter.event(NoticeEvent(level="warning", code=caution.code, message=caution.message))
    reporter.progress(len(samples), len(samples), "samples")
    reporter.close()

    summary = Summary(
        rows=len(samples),
        rows_scored=sum(row.z is not None for row in result.rows),
        rows_truncated=sum(sample.truncated for sample in samples),
        flagged=sum(row.flagged for row in result.rows),
        q=spec.q,
        threshold_z=result.threshold_z,
        null=result.null,
        histogram=result.histogram,
        steps=outcome.steps,
        tokens=outcome.tokens,
        train_loss_first=outcome.losses[0],
        train_loss_last=outcome.losses[-1],
        probe_loss_first=outcome.probe_losses[0],
        probe_loss_last=outcome.probe_losses[-1],
        probe_items=len(spec.probe),
        has_reference=has_reference,
        groups=result.groups,
        warnings=result.cautions,
        seconds=reporter.seconds,
        device=torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        versions={name: version(name) for name in ("finetooth", "torch", "transformers", "peft", "accelerate")},
    )
    pq.write_table(
        pa.Table.from_pylist([row.model_dump() for row in result.rows], _score_schema()), folder / SCORES_FILE
    )
    (folder / SUMMARY_FILE).write_text(summary.model_dump_json())


def _score_schema() -> Any:
    import pyarrow as pa

    integers, flags, texts = ("row", "rank", "n"), ("flagged",), ("group",)
    numbers = ("mu", "mu_low", "mu_high", "z", "z_reference", "p", "q")
    return pa.schema(
        [(name, pa.int64()) for name in integers]
        + [(name, pa.float64()) for name in numbers]
        + [(name, pa.bool_()) for name in flags]
        + [(name, pa.string()) for name in texts]
    )


def _groups(extra: Any, column: str | None) -> list[str | None]:
    """Each sample's group: the text of a string, the JSON of anything else, None where the column is absent."""
    if column is None:
        return [None] * len(extra)
    values = [json.loads(text.as_py() or "{}").get(column) for text in extra]
    return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]


def _claim_stdout() -> TextIO:
    """The pipe to the supervisor; whatever else prints goes to stderr and cannot garble the protocol."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def _obey(stdin: TextIO) -> None:
    """Waits for a command. Any of them, nonsense and the end of the stream included, means: stop now."""
    line = stdin.readline()
    if line:
        try:
            COMMAND.validate_json(line)
        except ValidationError:
            print("a command was not understood; stopping", file=sys.stderr)  # noqa: T201
    os._exit(EXIT_STOPPED)


def _bad_config(message: str, hint: str) -> Exception:
    from worker.training.errors import TrainingError

    return TrainingError(ErrorCode.BAD_CONFIG, message, hint)


def _failure(error: Exception) -> Failure:
    known = getattr(error, "failure", None)
    if isinstance(known, Failure):
        return known
    if isinstance(error, ValidationError):
        return Failure(
            code=ErrorCode.BAD_CONFIG,
            message="the step's specification was not understood",
            hint="run the same version of Finetooth in the service and in the workers",
        )
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return Failure(
            code=ErrorCode.OUT_OF_MEMORY,
            message="the device ran out of memory",
            hint="lower training.micro_batch_size or training.max_length; neither changes which samples are flagged by "
            "much, the first not at all",
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Failure(code=ErrorCode.DISK_FULL, message="the worker's disk is full", hint="free space and retry")
    return Failure(
        code=ErrorCode.INTERNAL,
        message=f"unexpected {type(error).__name__} in the training child",
        hint="the worker's log has the place; report it",
    )


def _log_place(error: Exception) -> None:
    import traceback

    for frame in traceback.extract_tb(error.__traceback__):
        print(f"{frame.filename}:{frame.lineno} in {frame.name}", file=sys.stderr)  # noqa: T201
    print(type(error).__name__, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m worker.run FOLDER")
    # The interpreter's own shutdown would wait for library threads; the files are complete and closed by now.
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)
