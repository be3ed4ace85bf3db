"""What an audit's job does beside what every job does: its steps, progress, results, cancel and retry."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from service.contract.protocol import ProgressEvent
from service.contract.results import Summary
from service.contract.spec import COMBINE, TrainingConfig, train_step_key
from service.lifecycle import transitions
from service.lifecycle.claims import Claim, first, held, locked
from service.lifecycle.job_rows import (
    Level,
    Priority,
    add_job,
    append_event,
    append_state,
    now,
    priority_of,
    read_snapshot,
    write_snapshot,
    write_stage,
)
from service.lifecycle.jobs import stop, succeed
from service.lifecycle.transitions import State
from service.settings import CANCEL_SECONDS
from service.store.ids import new_id
from service.store.tables import Audit, AuditData, AuditProbe, AuditStep, Job


class NotRetryableError(Exception):
    """The audit cannot be tried again: `state` is why."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.state = state


def create_audit(
    session: Session,
    *,
    workspace_id: str,
    dataset_id: str,
    probe_ids: Sequence[str],
    model_id: str,
    training: TrainingConfig,
    seeds: int = 1,
    q: float,
    group_column: str | None = None,
    trusted_column: str | None = None,
    priority: Priority = "normal",
    request_id: str | None = None,
    key_id: str | None = None,
    user_id: str | None = None,
) -> Audit:
    """Writes an audit with its probes, its steps, its queued job and its first event.

    One step trains with each of the `seeds` seeds training.seed, training.seed + 1, ...; the last one combines them.
    Raises sqlalchemy.exc.IntegrityError if the dataset, a probe or the model is not the workspace's.
    """
    audit_id = new_id("aud")
    job = add_job(
        session,
        kind="audit",
        subject_id=audit_id,
        workspace_id=workspace_id,
        request_id=request_id,
        priority=priority,
    )
    session.add(AuditData(audit_id=audit_id, workspace_id=workspace_id))
    session.flush()
    audit = Audit(
        id=audit_id,
        workspace_id=workspace_id,
        job_id=job.id,
        dataset_id=dataset_id,
        model_id=model_id,
        training=training.model_dump(mode="json"),
        seeds=seeds,
        q=q,
        group_column=group_column,
        trusted_column=trusted_column,
        key_id=key_id,
        user_id=user_id,
    )
    session.add(audit)
    session.flush()
    for number, probe_id in enumerate(probe_ids, start=1):
        session.add(AuditProbe(audit_id=audit_id, probe_no=number, workspace_id=workspace_id, probe_id=probe_id))
    for number, key in enumerate(step_keys(training.seed, seeds), start=1):
        session.add(AuditStep(audit_id=audit_id, step_key=key, step_no=number, workspace_id=workspace_id))
    session.flush()
    session.refresh(job)
    append_state(session, job, "Queued.")
    return audit


def step_keys(seed: int, seeds: int) -> list[str]:
    """The steps of an audit in the order in which they run: training with `seeds` seeds from `seed` on, combining."""
    return [*(train_step_key(seed + number) for number in range(seeds)), COMBINE]


def record_progress(session: Session, claim: Claim, event: ProgressEvent) -> bool:
    """Shows how far an audit is; a new stage is an event too. False: fenced."""
    found = held(session, claim)
    if found is None:
        return False
    job, _ = found
    stage = session.scalar(select(Audit.stage).where(Audit.id == job.subject_id))
    write_stage(session, job, event)
    if stage != event.stage:
        append_event(
            session,
            job,
            level="info",
            type="stage",
            message=f"{event.stage.capitalize()}.",
            data={"stage": event.stage},
        )
    return True


def record_event(
    session: Session, claim: Claim, *, level: Level, type: str, message: str, data: dict[str, Any] | None = None
) -> bool:
    """Appends to what users read about the audit: `type` is metric or notice, never sample text. False: fenced."""
    found = held(session, claim)
    if found is None:
        return False
    job, _ = found
    append_event(session, job, level=level, type=type, message=message, data=data)
    return True


def start_step(session: Session, claim: Claim, step_key: str, spec_sha256: str) -> bool:
    """Notes that a child starts on the step. False: fenced. Raises LookupError for a step the audit does not have."""
    found = held(session, claim)
    if found is None:
        return False
    job, _ = found
    step = _step(session, job, step_key)
    step.state = "running"
    step.spec_sha256 = spec_sha256
    step.attempt = job.attempt
    step.started_at = now()
    step.finished_at = None
    session.execute(update(Audit).where(Audit.id == job.subject_id).values(step_key=step_key))
    session.flush()
    steps = session.scalar(select(func.count()).where(AuditStep.audit_id == job.subject_id))
    append_event(
        session,
        job,
        level="info",
        type="step",
        message=f"Step {step.step_no} of {steps}: {step_key}.",
        data={"key": step_key, "number": step.step_no, "of": steps},
    )
    return True


def finish_step(session: Session, claim: Claim, step_key: str, succeeded: bool, *, size: int | None = None) -> bool:
    """Notes how the step's child ended, and how many bytes its stored files have. False: fenced.

    Raises LookupError for a step the audit does not have.
    """
    found = held(session, claim)
    if found is None:
        return False
    job, _ = found
    step = _step(session, job, step_key)
    step.state = "succeeded" if succeeded else "failed"
    step.bytes = size
    step.finished_at = now()
    session.flush()
    return True


def publish(session: Session, claim: Claim, summary: Summary) -> bool:
    """Makes this attempt's scores, findings and summary public and ends the job, all in one flip.

    False, and nothing changes: fenced, or a cancel came first.
    """
    job = succeed(session, claim)
    if job is None:
        return False
    session.execute(
        update(Audit)
        .where(Audit.id == job.subject_id)
        .values(published_attempt=job.attempt, summary=summary.model_dump(mode="json"))
    )
    append_state(session, job, f"Finished: {summary.flagged} of {summary.rows} samples flagged.")
    return True


def request_cancel(
    session: Session, *, workspace_id: str, audit_id: str, within_seconds: float = CANCEL_SECONDS
) -> Job:
    """Asks for the audit to stop: at once where no worker has it; a finished one stays as it is. Idempotent.

    Its worker has `within_seconds` for that, and loses the job then. Raises LookupError if the workspace has no such
    audit.
    """
    job, at = current_job(session, workspace_id, audit_id)
    stop(session, job, at, within_seconds=within_seconds)
    return job


def request_cancel_all(
    session: Session,
    *,
    workspace_id: str,
    state: State,
    creator_id: str | None = None,
    limit: int,
    within_seconds: float = CANCEL_SECONDS,
) -> list[str]:
    """Asks for audits in that state to stop, the oldest first, as request_cancel does for each.

    `creator_id` is the id of a key or a person (None: everybody's). Returns the ids of those that it has asked for, at
    most `limit` of them.
    """
    query = (
        locked()
        .join(Audit, (Audit.workspace_id == Job.workspace_id) & (Audit.job_id == Job.id))
        .where(Job.workspace_id == workspace_id, Job.kind == "audit", Job.state == state)
        .order_by(Job.id)
        .limit(limit)
    )
    if creator_id is not None:
        query = query.where(or_(Audit.key_id == creator_id, Audit.user_id == creator_id))
    stopped = []
    for job, at in session.execute(query.execution_options(populate_existing=True)).all():
        stop(session, job, at, within_seconds=within_seconds)
        stopped.append(job.subject_id)
    return stopped


def retry_audit(session: Session, *, workspace_id: str, audit_id: str, request_id: str | None = None) -> Job:
    """Queues a failed or cancelled audit again; one that is queued or runs is left as it is. Idempotent.

    What is tried again is another job: the old one stays as it ended. Raises LookupError if the workspace has no such
    audit, and NotRetryableError where it has succeeded or is just being cancelled.
    """
    job, at = current_job(session, workspace_id, audit_id)
    state = State(job.state)
    if state in (State.QUEUED, State.RUNNING):
        return job
    snapshot = transitions.follow_up(read_snapshot(job), now=at)
    if snapshot is None:
        raise NotRetryableError(state)
    again = add_job(
        session,
        kind=job.kind,
        subject_id=audit_id,
        workspace_id=workspace_id,
        request_id=request_id,
        priority=priority_of(job),
    )
    write_snapshot(session, again, snapshot)
    session.execute(update(Audit).where(Audit.id == audit_id).values(job_id=again.id))
    session.execute(
        update(AuditStep).where(AuditStep.audit_id == audit_id, AuditStep.state == "failed").values(state="pending")
    )
    session.refresh(again)
    append_state(session, again, "Queued again by a user.")
    return again


def current_job(session: Session, workspace_id: str, audit_id: str) -> tuple[Job, datetime]:
    """The audit's newest job, locked, with the time. Raises LookupError."""
    # Not locked: a worker's commands lock the job first and then its audit, and two orders would meet in a deadlock.
    newest = select(Audit.job_id).where(Audit.workspace_id == workspace_id, Audit.id == audit_id)
    while True:
        job_id = session.scalar(newest)
        found = first(session, locked().where(Job.id == job_id))
        if found is None:
            raise LookupError(audit_id)
        if session.scalar(newest) == job_id:
            return found


def _step(session: Session, job: Job, step_key: str) -> AuditStep:
    step = session.get(AuditStep, (job.subject_id, step_key), populate_existing=True)
    if step is None:
        raise LookupError(f"audit {job.subject_id} has no step {step_key!r}")
    return step
