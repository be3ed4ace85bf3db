"""Deleting a workspace: asked for in one short transaction, and carried out behind it, a piece in each transaction.

What is left to do is read from the rows themselves, so a process that dies leaves nothing half done, and whoever
reconciles next goes on. Each piece locks the workspace's row first, so that two processes never work on the same one;
one that was late could only delete what is to be deleted. docs/decisions/0049 has the reasons.
"""

import logging
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, delete, exists, func, insert, inspect, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.claims import locked
from service.lifecycle.deletion import ExportsNotEndedError, delete_audit
from service.lifecycle.job_rows import now
from service.lifecycle.jobs import NotEndedError, stop
from service.lifecycle.purging import LATE_SECONDS, purge_objects, purge_pending
from service.lifecycle.transitions import TERMINAL, State
from service.store.ids import new_id
from service.store.objects import dataset_key, upload_prefix
from service.store.seed import DEFAULT_WORKSPACE
from service.store.tables import (
    ApiKey,
    Audit,
    AuditData,
    AuditLogEntry,
    BrowserSession,
    Dataset,
    Export,
    IdempotencyRecord,
    Job,
    Membership,
    Model,
    ObjectPurge,
    Probe,
    SignInLink,
    Turn,
    Upload,
    User,
    Workspace,
)
from service.store.verdict_tables import SavedView

STOPPED_AT_ONCE = 100
"""Jobs that are stopped in one transaction."""

BATCH = 200
"""Rows deleted in one transaction: an answer kept under an Idempotency-Key may have megabytes."""

COUNTED = (Audit, AuditData, Export, Dataset, Upload, Probe, Model)
"""What the progress counts: tables whose rows are the larger part of what has to be done."""

OTHERS = (Probe, Model, SavedView, SignInLink, BrowserSession, Membership, ApiKey, IdempotencyRecord, Turn, Job)
"""Tables whose rows go after those of audits, uploads and datasets, in an order that foreign keys allow."""

Stage = Literal["stopping", "deleting", "clearing"]
"""Jobs are stopped; rows are deleted; their data and files are cleared away."""

log = logging.getLogger(__name__)


class _Done(NamedTuple):
    """What one piece of the work was."""

    stage: Stage | None
    """None: nothing is left."""
    go_on: bool
    """False: what is left is for somebody else, such as a worker that has to stop, and is looked at again."""


def request_deletion(session: Session, *, workspace_id: str) -> bool:
    """Let a workspace's keys and people do nothing more, and have it deleted in the background. Idempotent.

    Args:
        session: An open transaction.
        workspace_id: A workspace that there is.

    Returns:
        Whether it is new; False: it had been asked for before.
    """
    # The lock under which things are created in a workspace (service.http.quotas): what comes after this is refused.
    mine = select(Workspace).where(Workspace.id == workspace_id).with_for_update(key_share=True)
    workspace = session.scalars(mine.execution_options(populate_existing=True)).one()
    if workspace.deletion_requested_at is not None:
        return False
    workspace.deletion_requested_at = workspace.deletion_due_at = now()
    workspace.deletion_stage = "stopping"
    workspace.deletion_done, workspace.deletion_total = 0, _count(session, workspace_id)
    session.execute(
        update(ApiKey)
        .where(ApiKey.workspace_id == workspace_id)
        .values(
            revoked_at=func.coalesce(ApiKey.revoked_at, now()),
            previous_sha256=None,
            previous_expires_at=None,
            previous_last_used_at=None,
        )
    )
    for table in (SignInLink, BrowserSession):
        session.execute(delete(table).where(table.workspace_id == workspace_id))
    removed = session.scalars(
        delete(Membership).where(Membership.workspace_id == workspace_id).returning(Membership.user_id)
    ).all()
    # Who was invited and has never signed in is known by their invitations alone.
    session.execute(
        delete(User).where(User.id.in_(removed), User.subject.is_(None), ~exists().where(Membership.user_id == User.id))
    )
    session.flush()
    session.refresh(workspace)
    return True


def delete_due_workspaces(sessions: sessionmaker[Session], *, seconds: float, cancel_seconds: float) -> None:
    """Go on with the deletions of workspaces, for `seconds` and the piece that is under way then.

    Several processes may do it at once.

    Args:
        sessions: Each piece is a transaction of its own.
        seconds: For how long.
        cancel_seconds: How long workers have to stop what they run.

    Raises:
        OperationalError: The database is away.
    """
    until = time.monotonic() + seconds
    waiting: list[str] = []
    while True:
        with sessions.begin() as session:
            workspace = _take(session, waiting)
            if workspace is None:
                return
            done = _delete_piece(session, workspace, cancel_seconds)
            over = time.monotonic() >= until
            if done.stage is not None and (over or not done.go_on):
                _write_progress(session, workspace, done.stage)
            if not done.go_on:
                waiting.append(workspace.id)
        if over:
            return


def forget_deleted_workspaces(sessions: sessionmaker[Session]) -> list[str]:
    """Delete the rows of deleted workspaces that the audit log no longer names, so that their names are free again.

    Args:
        sessions: Each goes in a transaction of its own.

    Returns:
        The ids of those that it were.

    Raises:
        OperationalError: The database is away.
    """
    named = [exists().where(table.workspace_id == Workspace.id) for table in (AuditLogEntry, ObjectPurge)]
    over = (Workspace.deleted_at.is_not(None), Workspace.deletion_due_at.is_(None))
    with sessions() as session:
        found = session.scalars(select(Workspace.id).where(*over, ~or_(*named))).all()
    forgotten = []
    for workspace_id in found:
        try:
            with sessions.begin() as session:
                session.execute(delete(Workspace).where(Workspace.id == workspace_id, *over))
        except IntegrityError:
            # An older version, which does not know of deletions, has let somebody in.
            with sessions.begin() as session:
                session.execute(update(Workspace).where(Workspace.id == workspace_id).values(deletion_due_at=now()))
        else:
            forgotten.append(workspace_id)
    return forgotten


def _take(session: Session, besides: list[str]) -> Workspace | None:
    """Lock a workspace whose deletion is due; the lock keeps no job and no entry of the audit log from naming it."""
    due = (
        select(Workspace)
        .where(Workspace.deletion_due_at <= now(), Workspace.id.not_in(besides))
        .order_by(Workspace.deletion_due_at, Workspace.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    return session.scalars(due).one_or_none()


def _delete_piece(session: Session, workspace: Workspace, cancel_seconds: float) -> _Done:
    """Do the next thing that is to be done, in the session's transaction."""
    if _stop_jobs(session, workspace.id, cancel_seconds):
        return _Done("stopping", go_on=True)
    mine = Job.workspace_id == workspace.id
    if session.scalar(select(Job.id).where(mine, Job.state.not_in(sorted(TERMINAL))).limit(1)) is not None:
        return _Done("stopping", go_on=False)
    if _delete_audit(session, workspace.id) or _delete_inputs(session, workspace.id):
        return _Done("deleting", go_on=True)
    for table in OTHERS:
        if _delete_rows(session, table, table.workspace_id == workspace.id):
            return _Done("deleting", go_on=True)
    if _is_being_cleared(session, workspace.id):
        return _Done("clearing", go_on=False)
    if session.get(ObjectPurge, workspace.id) is None:
        # Once more under the whole prefix: what no row has named, such as a file of an upload that was broken off.
        purge_objects(session, workspace.id, workspace.id)
        return _Done("clearing", go_on=False)
    _finish(session, workspace)
    return _Done(None, go_on=False)


def _stop_jobs(session: Session, workspace_id: str, cancel_seconds: float) -> bool:
    """Stop some of the jobs that wait or run; False: there are none."""
    going_on = [State.QUEUED, State.RUNNING]
    query = locked().where(Job.workspace_id == workspace_id, Job.state.in_(going_on)).order_by(Job.id)
    found = session.execute(query.limit(STOPPED_AT_ONCE).execution_options(populate_existing=True)).all()
    for job, at in found:
        stop(session, job, at, within_seconds=cancel_seconds)
    return bool(found)


def _delete_audit(session: Session, workspace_id: str) -> bool:
    """Delete one audit with its exports; False: there is none."""
    audit_id = session.scalar(select(Audit.id).where(Audit.workspace_id == workspace_id).limit(1))
    if audit_id is None:
        return False
    # Else it was deleted meanwhile, or a request on its way has begun something, which is stopped next.
    with suppress(LookupError, NotEndedError, ExportsNotEndedError):
        delete_audit(session, workspace_id=workspace_id, audit_id=audit_id)
    return True


def _delete_inputs(session: Session, workspace_id: str) -> bool:
    """Delete some uploads, or else some datasets, and note their files; False: there are none."""
    uploads = _delete_rows(session, Upload, Upload.workspace_id == workspace_id)
    if uploads:
        purge_objects(session, workspace_id, *(upload_prefix(workspace_id, upload_id) for (upload_id,) in uploads))
        return True
    mine = Dataset.workspace_id == workspace_id
    # Versions stand on each other; all of them go.
    some = select(Dataset.id).where(mine, Dataset.replaces_id.is_not(None)).limit(BATCH)
    untied = update(Dataset).where(Dataset.id.in_(some)).values(replaces_id=None, changes=None).returning(Dataset.id)
    if session.scalars(untied, execution_options={"synchronize_session": False}).all():
        return True
    datasets = _delete_rows(session, Dataset, mine)
    if datasets:
        purge_objects(session, workspace_id, *(dataset_key(workspace_id, dataset_id) for (dataset_id,) in datasets))
    return bool(datasets)


def _delete_rows(session: Session, table: type[Any], which: ColumnElement[bool]) -> list[tuple[Any, ...]]:
    """Delete up to BATCH rows for which the condition holds, and return their keys."""
    key = inspect(table).primary_key
    some = select(*key).where(which).limit(BATCH)
    deleted = session.execute(
        delete(table).where(tuple_(*key).in_(some)).returning(*key), execution_options={"synchronize_session": False}
    )
    return [tuple(row) for row in deleted]


def _is_being_cleared(session: Session, workspace_id: str) -> bool:
    """Whether scores or files are left of what was deleted, which `service.lifecycle.purging` clears away."""
    data = select(AuditData.audit_id).where(AuditData.workspace_id == workspace_id)
    files = select(ObjectPurge.prefix).where(ObjectPurge.workspace_id == workspace_id, purge_pending())
    return any(session.scalar(query.limit(1)) is not None for query in (data, files))


def _finish(session: Session, workspace: Workspace) -> None:
    """Write down that nothing is left. An hour later all is looked through once more, for what was on its way."""
    if workspace.deleted_at is not None:
        workspace.deletion_due_at = None
        return
    workspace.deleted_at = now()
    workspace.deletion_due_at = now() + timedelta(seconds=LATE_SECONDS)
    workspace.deletion_stage = None
    workspace.deletion_done = workspace.deletion_total
    # Where whoever asked for it reads: admins of the installation.
    first = select(Workspace.id).where(Workspace.name == DEFAULT_WORKSPACE).scalar_subquery()
    session.execute(
        insert(AuditLogEntry).values(
            id=new_id("log"), workspace_id=first, action="workspace.deleted", object_id=workspace.id
        )
    )
    log.info("workspace %s is deleted", workspace.id)


def _write_progress(session: Session, workspace: Workspace, stage: Stage) -> None:
    if workspace.deleted_at is not None:
        return
    left = _count(session, workspace.id)
    # More than at first, where something was on its way when the deletion was asked for.
    total = max(workspace.deletion_total or 0, left)
    workspace.deletion_stage = stage
    workspace.deletion_total, workspace.deletion_done = total, total - left


def _count(session: Session, workspace_id: str) -> int:
    """Count what is left: rows, and one for the files."""
    counts = [
        select(func.count()).select_from(table).where(table.workspace_id == workspace_id).scalar_subquery()
        for table in COUNTED
    ]
    return 1 + sum(session.execute(select(*counts)).one())
