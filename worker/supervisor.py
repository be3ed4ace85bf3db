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

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service.contract import (
    Event,
    FailedEvent,
    Failure,
    FinishedEvent,
    MetricEvent,
    ModelSpec,
    NoticeEvent,
    ProbeItem,
    ProgressEvent,
    Stage,
    StepSpec,
    TrainingConfig,
)
from service.lifecycle import commands
from service.lifecycle.commands import Claim
from service.settings import Settings
from service.store.objects import ObjectStore, dataset_key
from service.store.tables import Audit, AuditStep, Dataset, Model, Probe
from worker.child import Child, Exited, child_environment
from worker.failures import failure_of, failure_of_child
from worker.staging import (
    InputMissingError,
    OutputError,
    load_scores,
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
class _Work:
    """One step to run."""

    spec: StepSpec
    dataset: Path
    """The stored rows.parquet."""
    rows: int


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
        with self._sessions.begin() as session:
            work = self._next_step(session, claim)
        if work is None:
            raise LookupError("the audit has no step left")
        self._settings.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        prefix = f"{claim.subject_id}.{claim.attempt}."
        folder = Path(tempfile.mkdtemp(dir=self._settings.work, prefix=prefix)).absolute()
        try:
            return self._run_step(claim, work, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _next_step(self, session: Session, claim: Claim) -> _Work | None:
        audit = session.get_one(Audit, claim.subject_id)
        step_key = session.scalar(
            select(AuditStep.step_key)
            .where(AuditStep.audit_id == audit.id, AuditStep.state != "succeeded")
            .order_by(AuditStep.step_key)
            .limit(1)
        )
        if step_key is None:
            return None
        dataset = session.get_one(Dataset, audit.dataset_id)
        model = session.get_one(Model, audit.model_id)
        probe = session.get_one(Probe, audit.probe_id)
        spec = StepSpec(
            audit_id=audit.id,
            attempt=claim.attempt,
            step_key=step_key,
            model=ModelSpec(source=model.source, location=model.location, revision=model.revision),
            training=TrainingConfig.model_validate(audit.training),
            probe=tuple(ProbeItem.model_validate(item) for item in probe.items),
            q=audit.q,
            group_column=audit.group_column,
        )
        rows = self._objects.path(dataset_key(claim.workspace_id, dataset.id, "rows.parquet"))
        return _Work(spec=spec, dataset=rows, rows=dataset.rows)

    def _run_step(self, claim: Claim, work: _Work, folder: Path) -> str:
        step_key = work.spec.step_key
        stage_inputs(folder, work.spec, work.dataset)
        with self._sessions.begin() as session:
            if not commands.start_step(session, claim, step_key, spec_sha256(work.spec)):
                return "no longer ours"
        ending = self._run_child(claim, work, folder)
        if ending.stopped is Reason.CANCEL:
            return self._cancelled(claim)
        if ending.stopped is Reason.SHUTDOWN and not isinstance(ending.last_word, FinishedEvent):
            return self._release(claim)
        if isinstance(ending.last_word, FinishedEvent):
            return self._publish(claim, work, folder)
        if ending.last_word is None and ending.stderr:
            log.error("audit %s: end of the child's stderr:\n%s", claim.subject_id, ending.stderr)
        return self._fail(claim, failure_of_child(ending.code, ending.last_word, ending.stderr))

    def _run_child(self, claim: Claim, work: _Work, folder: Path) -> _Ending:
        environment = child_environment(os.environ, self._settings.cache_dir)
        child = Child(self._child_command, folder, environment)
        try:
            return self._attend(claim, work, child)
        finally:
            child.kill()

    def _attend(self, claim: Claim, work: _Work, child: Child) -> _Ending:
        """Relays the child's events and tells it to stop where it has to, until it is gone."""
        relay = _Relay(self, claim, work)
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

    def _publish(self, claim: Claim, work: _Work, folder: Path) -> str:
        summary = read_summary(folder)
        self._show_publishing(claim, 0, work.rows)
        step_key = work.spec.step_key

        def publish(session: Session) -> bool:
            if session.get_one(Audit, claim.subject_id).published_attempt == claim.attempt:
                return True  # An earlier try was committed, and the connection broke before we heard of it.
            load_scores(
                session,
                claim,
                folder,
                dataset=work.dataset,
                rows=work.rows,
                findings_top=self._settings.findings_top,
                on_progress=lambda done: self._show_publishing(claim, done, work.rows),
            )
            if commands.finish_step(session, claim, step_key, True) and commands.publish(session, claim, summary):
                return True
            session.rollback()  # of the scores too
            return False

        published = False
        try:
            store_outputs(self._objects, claim, step_key, folder)
            published = self._surely(publish)
        except OperationalError:
            published = True  # Perhaps: the files stay, since a row may name them.
            raise
        finally:
            if not published:
                self._objects.delete_tree(f"{claim.workspace_id}/audits/{claim.subject_id}/{claim.attempt}")
        return "published" if published else self._cancelled(claim)

    def _cancelled(self, claim: Claim) -> str:
        ours = self._surely(lambda session: commands.cancelled(session, claim))
        return "cancelled" if ours else "no longer ours"

    def _release(self, claim: Claim) -> str:
        ours = self._surely(lambda session: commands.release(session, claim))
        return "released" if ours else "no longer ours"

    def _fail(self, claim: Claim, failure: Failure) -> str:
        try:
            ours = self._surely(lambda session: commands.fail(session, claim, failure))
        except OperationalError:
            return f"failed ({failure.code}), which the database could not be told"
        return f"failed ({failure.code})" if ours else "no longer ours"

    # ------------------------------------------------------------ the database

    def _show_publishing(self, claim: Claim, done: int, total: int) -> None:
        event = ProgressEvent(stage=Stage.PUBLISHING, done=done, total=total, unit="rows")
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

    def __init__(self, supervisor: Supervisor, claim: Claim, work: _Work) -> None:
        self._write = supervisor._while_running
        self._claim = claim
        training = work.spec.training
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
                self._record(
                    "info", "metric", f"Step {event.step}: loss {event.loss:.4g}.", event.model_dump(exclude={"type"})
                )
            case NoticeEvent():
                self._record(event.level, "notice", event.message, {"code": event.code})

    def flush(self, *, now: bool = False) -> None:
        """Writes the newest progress if its second has passed."""
        event = self._progress
        if event is None or (not now and time.monotonic() - self._written_at < PROGRESS_SECONDS):
            return
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
