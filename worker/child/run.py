"""The child that runs one step: `python -m worker.child.run FOLDER`.

It knows no database, broker or web: it has a local folder and two pipes. Reads spec.json and what the step needs from
the folder, leaves the step's files there (service/contract/), prints contract events as JSON lines on stdout and reads
commands on stdin. Exits 0 after `finished`, 1 after `failed`, 3 when it was told to stop or left alone
(worker/child/control.py), and 4 when it was told to save first and has.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from service.contract.protocol import EXIT_SAVED, EXIT_STOPPED, SPEC_FILE, FailedEvent, FinishedEvent, Stage
from service.contract.spec import COMBINE, StepSpec
from worker.child.control import StopRequest, obey
from worker.child.events import Reporter
from worker.child.failures import failure_of
from worker.training.errors import StoppedError

EXIT_FAILED = 1
"""Exit code after an event that says what failed."""

LEFT_OUT = ("bitsandbytes", "boto3")
"""Peft and accelerate import these wherever they are installed, a third of a child's start: the first brings a
compiler for quantised models, which are never loaded here, the second a client for clusters.
"""


def run_and_exit(folder: Path) -> NoReturn:
    """Runs one step and ends the process with its code."""
    code = main(folder)
    # The interpreter's own shutdown would wait for library threads; the files are complete and closed by now.
    sys.stdout.flush()
    os._exit(code)


def main(folder: Path) -> int:
    """Runs one step; the process's exit code."""
    faulthandler.enable()  # what crashes in native code leaves its place, at least
    reporter = Reporter(_claim_stdout())
    request = StopRequest()
    threading.Thread(target=obey, args=(sys.stdin.fileno(), request), daemon=True, name="commands").start()
    try:
        run(folder, reporter, request)
    except StoppedError as stopped:
        return EXIT_SAVED if stopped.saved else EXIT_STOPPED
    except Exception as error:
        failure = failure_of(error)
        if error.__cause__ is not None or not hasattr(error, "failure"):
            # The type and place are for the worker's log; a message could quote a sample.
            _log_place(error)
        reporter.event(FailedEvent(failure=failure))
        return EXIT_FAILED
    reporter.event(FinishedEvent())
    return 0


def run(folder: Path, reporter: Reporter, request: StopRequest) -> None:
    """Run the step that spec.json describes and write its files.

    Args:
        folder: The folder of the step.
        reporter: Tells the supervisor how far the step is.
        request: Says whether the training has to stop or to save.

    Raises:
        StoppedError: The request was followed.
    """
    reporter.stage(Stage.LOADING)
    spec = StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    # Imported here, not above: a bad spec is answered at once, and progress is told before the seconds this takes.
    if spec.step_key == COMBINE:
        from worker.child.combine import combine

        combine(folder, spec, reporter)
    else:
        leave_out(LEFT_OUT)
        from worker.child.train import train_seed

        train_seed(folder, spec, reporter, request)


def leave_out(modules: Sequence[str]) -> None:
    """These count as not installed in this process, unless they have been imported already."""
    for name in modules:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None is how Python spells it


def _claim_stdout() -> TextIO:
    """The pipe to the supervisor; whatever else prints goes to stderr and cannot garble the protocol."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def _log_place(error: BaseException) -> None:
    import traceback

    if error.__cause__ is not None:
        _log_place(error.__cause__)
    for frame in traceback.extract_tb(error.__traceback__):
        # As Python writes it: the supervisor logs lines of this form (worker/process/stderr_filter.py).
        print(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}', file=sys.stderr)  # noqa: T201
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    print(name, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m worker.child.run FOLDER")
    run_and_exit(Path(sys.argv[1]))
