"""When a run is checkpointed, what it is resumed from, and how many checkpoints stay."""

import errno
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from service.contract.protocol import CHECKPOINTS_KEPT, CheckpointEvent, NoticeEvent
from worker.training.checkpointing.format import PARTIAL, ForeignError, UnusableError, read_checkpoint, write_checkpoint
from worker.training.checkpointing.state import TrainingState
from worker.training.errors import StoppedError

COST = 50
"""Seconds of training a second of writing at least: checkpoints take no more than a fiftieth of the time."""


class Checkpoints:
    """Keeps the last checkpoints of one run in a folder."""

    def __init__(
        self,
        root: Path,
        identity: Mapping[str, str],
        *,
        every_seconds: float,
        tell: Callable[[CheckpointEvent | NoticeEvent], None],
        stop_asked: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to write checkpoints; nothing is read or written yet.

        Args:
            root: Folder of the checkpoints.
            identity: What has to be equal for a checkpoint to be resumed from.
            every_seconds: How often one is written; 0: between any two steps.
            tell: Told of each that is written, and of what prevents one.
            stop_asked: Asked between any two steps whether the run has to stop.
            clock: Seconds that only grow.
        """
        self._root, self._identity = root, identity
        self._every, self._tell, self._stop_asked, self._clock = every_seconds, tell, stop_asked, clock
        self._due = clock() + every_seconds
        self._failing = False

    def resume(self, state: TrainingState) -> None:
        """Loads the newest checkpoint that is whole and of this run; with none the run starts at its beginning.

        What cannot be used is told in a notice, and deleted.
        """
        refused = False
        for folder in reversed(self._found()):
            try:
                found = read_checkpoint(folder, self._identity)
            except (UnusableError, ForeignError) as error:
                foreign = isinstance(error, ForeignError)
                what = "of another run or version" if foreign else "damaged"
                self._warn(
                    "checkpoint_foreign" if foreign else "checkpoint_damaged",
                    f"The checkpoint after step {int(folder.name)} is {what} and is not used: {error}.",
                )
                shutil.rmtree(folder, ignore_errors=True)
                refused = True
                continue
            state.load_state_dict(found)
            self._tell(NoticeEvent(code="resumed", message=f"The run goes on after step {int(folder.name)}."))
            return
        if refused:
            self._tell(NoticeEvent(code="started_anew", message="No checkpoint can be used: the run starts anew."))

    def boundary(self, state: TrainingState) -> None:
        """Write a checkpoint between two steps if it is time, or if the run has to stop.

        Args:
            state: The state of the run.

        Raises:
            StoppedError: The run was asked to stop.
        """
        stop = self._stop_asked()
        if not stop and self._clock() < self._due:
            return
        saved = self._save(state)
        if stop:
            raise StoppedError(saved=saved)

    def _save(self, state: TrainingState) -> bool:
        started = self._clock()
        try:
            folder = write_checkpoint(self._root, state.position, state.state_dict(), self._identity)
        except OSError as error:
            # The run is worth more than its insurance; and the last good checkpoint is still there.
            if not self._failing:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                why = "the worker's disk is full" if full else f"the worker's disk answered {type(error).__name__}"
                self._warn("checkpoint_not_written", f"No checkpoint could be written: {why}. The run goes on.")
            self._failing = True
            return False
        finally:
            now = self._clock()
            self._due = now + (max(self._every, COST * (now - started)) if self._every else 0.0)
        self._failing = False
        for old in self._found()[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        self._tell(CheckpointEvent(name=folder.name))
        return True

    def _found(self) -> list[Path]:
        """Oldest first."""
        if not self._root.is_dir():
            return []
        for partial in self._root.glob(f"{PARTIAL}*"):
            shutil.rmtree(partial, ignore_errors=True)
        return sorted(path for path in self._root.iterdir() if path.is_dir() and path.name.isdecimal())

    def _warn(self, code: str, message: str) -> None:
        self._tell(NoticeEvent(level="warning", code=code, message=message))
