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
    """Write an audit with its probes, its steps, its queued job and its first event.

    One step trains with each of the seeds training.seed, training.seed + 1, ...; the last step combines them.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        dataset_id: Id of the dataset that is audited.
        probe_ids: Ids of the probes, in the order in which results show them.
        model_id: Id of the registered model.
        training: How each run trains.
        seeds: How many runs there are, each with a seed of its own.
        q: The false discovery rate that findings keep, between 0 and 1.
        group_column: Column of the dataset whose values name a sample's group; None: no groups.
        trusted_column: Column that marks samples known to be clean; None: no such samples.
        priority: Which of the workspace's jobs are taken first.
        request_id: Id of the request that asks for it, for the logs; None without one.
        key_id: Id of the key that asks for it; None where a person does.
        user_id: Id of the person who asks for it; None where a key does.

    Raises:
        sqlalchemy.exc.IntegrityError: The dataset, a probe or the model is not the workspace's.
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
    """Return the keys of an audit's steps in the order in which they run: one training step a seed, then the combining.

    Args:
        seed: The first seed.
        seeds: How many seeds there are.
    """
    return [*(train_step_key(seed + number) for number in range(seeds)), COMBINE]


def record_progress(session: Session, claim: Claim, event: ProgressEvent) -> bool:
    """Show how far an audit is; a new stage becomes an event as well.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
        event: What the child reported.

    Returns:
        False if the claim no longer holds the job; then nothing is written.
    """
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
    """Append an event to those that users read about the audit.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
        level: How serious it is.
        type: metric or notice.
        message: A sentence for users; never sample text.
        data: Values that belong to it, for programs.

    Returns:
        False if the claim no longer holds the job; then nothing is written.
    """
    found = held(session, claim)
    if found is None:
        return False
    job, _ = found
    append_event(session, job, level=level, type=type, message=message, data=data)
    return True


def start_step(session: Session, claim: Claim, step_key: str, spec_sha256: str) -> bool:
    """Record that a child starts on the step.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
        step_key: Which step it is.
        spec_sha256: Hash of what the child is told to do, as hexadecimal digits.

    Returns:
        False if the claim no longer holds the job; then nothing is written.

    Raises:
        LookupError: The audit has no such step.
    """
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
    """Record how the step's child ended.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
        step_key: Which step it was.
        succeeded: Whether the step has its result.
        size: Bytes of its stored files; None if they are not known.

    Returns:
        False if the claim no longer holds the job; then nothing is written.

    Raises:
        LookupError: The audit has no such step.
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
    """Make this attempt's scores, findings and summary visible and end the job, in one transaction.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
        summary: What the audit found.

    Returns:
        False if the claim no longer holds the job or a cancel came first; then nothing changes.
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
    """Ask for an audit to stop. Asking again changes nothing.

    An audit that no worker has is cancelled at once, and one that has ended stays as it is.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        audit_id: Id of the audit.
        within_seconds: How long its worker may take to stop before it loses the job.

    Returns:
        The audit's newest job.

    Raises:
        LookupError: The workspace has no such audit.
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
    """Ask for all audits in one state to stop, the oldest first, as `request_cancel` does for one.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        state: The state that the audits are in.
        creator_id: Id of the key or person whose audits are meant; None: everybody's.
        limit: How many to stop at most.
        within_seconds: How long each worker may take to stop before it loses the job.

    Returns:
        The ids of the audits that were asked to stop.
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
    """Queue a failed or cancelled audit again; one that is queued or runs stays as it is.

    The retry is another job: the old one stays as it ended.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        audit_id: Id of the audit.
        request_id: Id of the request that asks for it, for the logs; None without one.

    Returns:
        The audit's newest job.

    Raises:
        LookupError: The workspace has no such audit.
        NotRetryableError: The audit has succeeded or is just being cancelled.
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
    """Lock an audit's newest job.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        audit_id: Id of the audit.

    Returns:
        The job and the database's time.

    Raises:
        LookupError: The workspace has no such audit.
    """
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
