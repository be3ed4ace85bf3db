"""Takes a job, stages its inputs, runs the child, relays what it says, and publishes what it leaves. No torch here."""

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service.contract import (
    COMBINE,
    Event,
    FailedEvent,
    Failure,
    FinishedEvent,
    MetricEvent,
    NoticeEvent,
    ProgressEvent,
    Stage,
)
from service.lifecycle import commands
from service.lifecycle.commands import Claim
from service.settings import Settings
from service.store.objects import ObjectStore, audit_prefix, step_prefix
from service.store.tables import Audit
from worker.child import Child, Exited, child_environment
from worker.failures import failure_of, failure_of_child
from worker.loading import load_results, score_count
from worker.pace import Pace
from worker.planning import Work, plan_steps
from worker.staging import (
    InputMissingError,
    OutputError,
    check_recording,
    read_summary,
    spec_sha256,
    stage_inputs,
    store_outputs,
)
from worker.telemetry import MetricThinning

log = logging.getLogger(__name__)

CHILD_COMMAND = (sys.executable, "-m", "worker.run")

PROGRESS_SECONDS = 1.0
"""Progress is written to the database at most this often, but for a new stage."""

WRITE_ATTEMPTS = 6
"""Of a write that ends an attempt, while the database is away: about half a minute in all."""

T = TypeVar("T")


class Reason(Enum):
    """Why a child was told to stop."""

    CANCEL = "a user cancelled the audit, or it is no longer ours"
    SHUTDOWN = "this worker ends"
    OVERDUE = "it had said its last word and did not exit"


@dataclass(frozen=True)
class Graces:
    """Seconds that a child is given to end."""

    told: float = 10.0
    """From being told on stdin to SIGTERM."""
    terminated: float = 10.0
    """From SIGTERM to SIGKILL."""
    last_word: float = 10.0
    """From its `finished` or `failed` to being told."""


@dataclass(frozen=True)
class _Ending:
    """How a child came to its end."""

    code: int
    last_word: FinishedEvent | FailedEvent | None
    stopped: Reason | None
    stderr: str


class Supervisor:
    """Runs jobs, one at a time, as `owner`. Every write is fenced by (job, attempt, owner)."""

    def __init__(
        self,
        settings: Settings,
        sessions: sessionmaker[Session],
        objects: ObjectStore,
        *,
        owner: str,
        stopping: threading.Event,
        child_command: Sequence[str] = CHILD_COMMAND,
        graces: Graces = Graces(),  # frozen
    ) -> None:
        """Once `stopping` is set, the running child is ended, its job goes back to the queue and no other is taken."""
        self._settings = settings
        self._sessions = sessions
        self._objects = objects
        self._owner = owner
        self._stopping = stopping
        self._child_command = child_command
        self._graces = graces

    def run_due(self, lane: str) -> int:
        """Claims and runs the lane's due jobs until none is due. Returns how many it ran."""
        ran = 0
        while not self._stopping.is_set():
            claim = self._surely(lambda session: commands.claim(session, lane=lane, owner=self._owner))
            if claim is None:
                break
            self.run(claim)
            ran += 1
        return ran

    def run(self, claim: Claim) -> None:
        """Takes the claimed job to a terminal state, or back to the queue. Raises nothing but what ends a process."""
        log.info("audit %s attempt %d: started", claim.subject_id, claim.attempt)
        try:
            outcome = self._run_steps(claim)
        except (InputMissingError, OutputError) as error:
            log.error("audit %s: %s", claim.subject_id, error)
            outcome = self._fail(claim, error.failure)
        except Exception as error:
            # Neither message nor arguments: a driver's error quotes the data.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("audit %s: %s\n%s", claim.subject_id, type(error).__name__, frames)
            outcome = self._fail(claim, failure_of(error))
        log.info("audit %s attempt %d: %s", claim.subject_id, claim.attempt, outcome)

    # ------------------------------------------------------------ an attempt

    def _run_steps(self, claim: Claim) -> str:
        """Runs what is left of the audit's steps, in their order. Returns how the attempt ended."""
        plan = self._surely(lambda session: plan_steps(session, self._objects, claim))
        self._settings.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        pace = Pace(sum(work.spec.step_key != COMBINE for work in plan))
        for number, work in enumerate(plan):
            if number:
                reason = self._reason_to_stop(claim)
                if reason is not None:
                    return self._cancelled(claim) if reason is Reason.CANCEL else self._release(claim)
                self._show(claim, ProgressEvent(stage=Stage.PREPARING, done=0))
            prefix = f"{claim.subject_id}.{claim.attempt}."
            folder = Path(tempfile.mkdtemp(dir=self._settings.work, prefix=prefix)).absolute()
            try:
                outcome = self._run_step(claim, work, folder, pace)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            if outcome is not None:
                return outcome
        raise LookupError("the audit has no step left")

    def _run_step(self, claim: Claim, work: Work, folder: Path, pace: Pace) -> str | None:
        """How the attempt ended with this step; None where the next one is to be run."""
        step_key = work.spec.step_key
        stage_inputs(folder, work.spec, self._objects, work.dataset, work.recordings)
        sha256 = spec_sha256(work.spec)
        if not self._surely(lambda session: commands.start_step(session, claim, step_key, sha256)):
            return "no longer ours"
        if step_key != COMBINE:
            pace.start()
        ending = self._run_child(claim, work, folder, pace)
        if ending.stopped is Reason.CANCEL:
            return self._cancelled(claim)
        if isinstance(ending.last_word, FinishedEvent):
            if step_key == COMBINE:
                return self._publish(claim, work, folder)
            pace.finish()
            return self._keep(claim, work, folder)
        if ending.stopped is Reason.SHUTDOWN:
            return self._release(claim)
        if ending.last_word is None and ending.stderr:
            log.error("audit %s: end of the child's stderr:\n%s", claim.subject_id, ending.stderr)
        return self._fail(claim, failure_of_child(ending.code, ending.last_word, ending.stderr))

    def _run_child(self, claim: Claim, work: Work, folder: Path, pace: Pace) -> _Ending:
        environment = child_environment(os.environ, self._settings.cache_dir)
        child = Child(self._child_command, folder, environment)
        try:
            return self._attend(claim, _Relay(self, claim, work, pace), child)
        finally:
            child.kill()

    def _attend(self, claim: Claim, relay: "_Relay", child: Child) -> _Ending:
        """Relays the child's events and tells it to stop where it has to, until it is gone."""
        last_word: FinishedEvent | FailedEvent | None = None
        overdue_at: float | None = None
        stop: _Stop | None = None
        next_poll = 0.0
        while True:
            now = time.monotonic()
            if stop is None and now >= next_poll:
                next_poll = now + self._settings.poll_seconds
                reason = self._reason_to_stop(claim)
                if reason is None and overdue_at is not None and now >= overdue_at:
                    reason = Reason.OVERDUE
                if reason is not None:
                    log.info("audit %s: stopping the child: %s", claim.subject_id, reason.value)
                    stop = _Stop(child, reason, self._graces)
            if stop is not None:
                stop.insist()
            relay.flush()
            item = child.next(min(self._settings.poll_seconds, 0.25))
            if isinstance(item, Exited):
                relay.flush(now=True)
                return _Ending(item.code, last_word, stop.reason if stop else None, child.stderr_tail())
            if isinstance(item, FinishedEvent | FailedEvent):
                last_word = item
                overdue_at = time.monotonic() + self._graces.last_word
            elif item is not None and stop is None:
                relay.take(item)

    def _reason_to_stop(self, claim: Claim) -> Reason | None:
        if self._stopping.is_set():
            return Reason.SHUTDOWN
        cancel = self._while_running(lambda session: commands.cancel_requested(session, claim))
        return Reason.CANCEL if cancel else None

    # ------------------------------------------------------------ how an attempt ends

    def _keep(self, claim: Claim, work: Work, folder: Path) -> str | None:
        """Stores what a training step recorded, so that no later attempt has to run it again."""
        step_key = work.spec.step_key
        check_recording(folder)

        def finish(session: Session) -> bool:
            return commands.finish_step(session, claim, step_key, True)

        return None if self._store(claim, step_key, folder, finish) else self._cancelled(claim)

    def _publish(self, claim: Claim, work: Work, folder: Path) -> str:
        step_key, probes = work.spec.step_key, len(work.spec.probes)
        summary = read_summary(folder, work.spec, work.rows)
        scores = score_count(work.rows, probes)
        self._show_publishing(claim, 0, scores)

        def publish(session: Session) -> bool:
            if session.get_one(Audit, claim.subject_id).published_attempt == claim.attempt:
                return True  # An earlier try was committed, and the connection broke before we heard of it.
            with self._objects.open(work.dataset) as dataset:
                load_results(
                    session,
                    claim,
                    folder,
                    dataset=dataset,
                    rows=work.rows,
                    probes=probes,
                    findings_top=self._settings.findings_top,
                    on_progress=lambda done: self._show_publishing(claim, done, scores),
                )
            if commands.finish_step(session, claim, step_key, True) and commands.publish(session, claim, summary):
                return True
            session.rollback()  # of the scores too
            return False

        return "published" if self._store(claim, step_key, folder, publish) else self._cancelled(claim)

    def _store(self, claim: Claim, step_key: str, folder: Path, commit: Callable[[Session], bool]) -> bool:
        """Puts the step's files into the object store, and then does what names them; without that they go again."""
        committed = False
        try:
            store_outputs(self._objects, claim, step_key, folder)
            committed = self._surely(commit)
        except OperationalError:
            committed = True  # Perhaps: the files stay, since a row may name them.
            raise
        finally:
            if not committed:
                self._objects.delete_tree(step_prefix(claim.workspace_id, claim.subject_id, claim.attempt, step_key))
        return committed

    def _cancelled(self, claim: Claim) -> str:
        return self._end(claim, lambda session: commands.cancelled(session, claim), "cancelled")

    def _release(self, claim: Claim) -> str:
        ours = self._surely(lambda session: commands.release(session, claim))
        return "released" if ours else "no longer ours"

    def _fail(self, claim: Claim, failure: Failure) -> str:
        try:
            return self._end(claim, lambda session: commands.fail(session, claim, failure), f"failed ({failure.code})")
        except OperationalError:
            return f"failed ({failure.code}), which the database could not be told"

    def _end(self, claim: Claim, command: Callable[[Session], bool], outcome: str) -> str:
        """Ends the audit without a result; nothing will ask for its recordings again."""
        if not self._surely(command):
            return "no longer ours"
        self._objects.delete_tree(audit_prefix(claim.workspace_id, claim.subject_id))
        return outcome

    # ------------------------------------------------------------ the database

    def _show_publishing(self, claim: Claim, done: int, total: int) -> None:
        self._show(claim, ProgressEvent(stage=Stage.PUBLISHING, done=done, total=total, unit="scores"))

    def _show(self, claim: Claim, event: ProgressEvent) -> None:
        self._while_running(lambda session: commands.record_progress(session, claim, event))

    def _while_running(self, act: Callable[[Session], T]) -> T | None:
        """One transaction; None while the database is away, which a child at work need not notice."""
        try:
            with self._sessions.begin() as session:
                return act(session)
        except OperationalError as error:
            log.warning("the database is away: %s", type(error.orig).__name__)
            return None

    def _surely(self, act: Callable[[Session], T]) -> T:
        """One transaction that a moment's absence of the database must not undo. Raises OperationalError in the end."""
        for attempt in range(WRITE_ATTEMPTS):
            try:
                with self._sessions() as session:
                    done = act(session)
                    session.commit()
                    return done
            except OperationalError as error:
                if attempt == WRITE_ATTEMPTS - 1:
                    raise
                log.warning("the database is away: %s", type(error.orig).__name__)
                time.sleep(2.0**attempt / 2)
        raise AssertionError("unreachable")


class _Relay:
    """Writes what the child reports: the newest progress once a second, thinned metrics, all notices."""

    def __init__(self, supervisor: Supervisor, claim: Claim, work: Work, pace: Pace) -> None:
        self._write = supervisor._while_running
        self._claim = claim
        self._pace = pace
        training = work.spec.training
        self._seed = training.seed
        self._thinning = MetricThinning(steps=-(-work.rows // training.batch_size) * training.epochs)
        self._progress: ProgressEvent | None = None
        self._stage: Stage | None = None
        self._written_at = 0.0

    def take(self, event: Event) -> None:
        """One event of the child."""
        match event:
            case ProgressEvent():
                self._progress = event
                if event.stage != self._stage:
                    self._stage = event.stage
                    self.flush(now=True)
            case MetricEvent() if self._thinning.keep(event):
                data = {"seed": self._seed, **event.model_dump(exclude={"type"})}
                self._record("info", "metric", f"Step {event.step}: loss {event.loss:.4g}.", data)
            case NoticeEvent():
                self._record(event.level, "notice", event.message, {"code": event.code})

    def flush(self, *, now: bool = False) -> None:
        """Writes the newest progress if its second has passed."""
        event = self._progress
        if event is None or (not now and time.monotonic() - self._written_at < PROGRESS_SECONDS):
            return
        event = event.model_copy(update={"eta_seconds": self._pace.eta_seconds(event.eta_seconds)})
        self._progress = None
        self._written_at = time.monotonic()
        self._write(lambda session: commands.record_progress(session, self._claim, event))

    def _record(self, level: commands.Level, type: str, message: str, data: dict[str, object]) -> None:
        self._write(
            lambda session: commands.record_event(
                session, self._claim, level=level, type=type, message=message, data=data
            )
        )


class _Stop:
    """Tells a child to stop: on stdin, then by SIGTERM, then by SIGKILL."""

    def __init__(self, child: Child, reason: Reason, graces: Graces) -> None:
        self.reason = reason
        self._child = child
        now = time.monotonic()
        self._terminate_at = now + graces.told
        self._kill_at = self._terminate_at + graces.terminated
        self._terminated = False
        child.cancel()

    def insist(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        if now >= self._kill_at:
            self._child.signal(signal.SIGKILL)
        elif now >= self._terminate_at and not self._terminated:
            self._terminated = True
            self._child.signal(signal.SIGTERM)
