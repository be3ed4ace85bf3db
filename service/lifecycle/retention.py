"""Deletes what is older than the settings keep it: exports, audits, recordings, datasets. Each is off by default.

Each thing goes in a transaction of its own, with an entry in the audit log that names no key and no person.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Interval, Select, delete, exists, insert, literal, or_, select, update
from sqlalchemy.orm import Session, aliased, sessionmaker

from service.lifecycle.datasets import close_gap
from service.lifecycle.deletion import ExportsNotEndedError, delete_audit
from service.lifecycle.exports import delete_export
from service.lifecycle.job_rows import now
from service.lifecycle.purging import purge_objects
from service.lifecycle.transitions import TERMINAL, State
from service.settings import Settings
from service.store.ids import new_id
from service.store.objects import dataset_key, step_prefix
from service.store.tables import Audit, AuditLogEntry, AuditStep, Dataset, Export, Job

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Select[*tuple[Any, ...]])
"""A query, whatever its columns."""

Expire = Callable[[Session], str | None]
"""Deletes one thing that is too old and returns its id; None: there is none."""


def delete_too_old(sessions: sessionmaker[Session], settings: Settings, *, seconds: float) -> bool:
    """Delete what is too old, for `seconds` and the thing that is under way then.

    Several processes may do it at once.

    Args:
        sessions: Each thing goes in a transaction of its own.
        settings: Say how long what is kept.
        seconds: For how long.

    Returns:
        Whether nothing too old is left.

    Raises:
        OperationalError: The database is away.
    """
    until = time.monotonic() + seconds
    # Exports before their audits, and audits before the datasets on which they stand.
    ages = [
        (settings.export_days, expire_export),
        (settings.audit_days, expire_audit),
        (settings.recording_days, expire_recordings),
        (settings.dataset_days, expire_dataset),
    ]
    for days, expire in ages:
        if days is None:
            continue
        while _expire_one(sessions, partial(expire, age=timedelta(days=days))):
            if time.monotonic() >= until:
                return False
    return True


def _expire_one(sessions: sessionmaker[Session], expire: Expire) -> bool:
    try:
        with sessions.begin() as session:
            expired = expire(session)
    except ExportsNotEndedError:
        return False  # somebody asked for one just now
    if expired is None:
        return False
    log.info("%s was kept for as long as the settings say, and is deleted", expired)
    return True


def expire_export(session: Session, age: timedelta) -> str | None:
    """Delete the export that ended longest ago, with its file.

    Args:
        session: An open transaction.
        age: How long ago it must have ended.

    Returns:
        Its id; None if no export is that old.
    """
    exports = select(Export.id, Export.workspace_id).join(Job, Job.id == Export.job_id)
    found = session.execute(_longest_ended(exports, age)).one_or_none()
    if found is None:
        return None
    export_id, workspace_id = found
    delete_export(session, workspace_id=workspace_id, export_id=export_id)
    return _record(session, workspace_id, "export.expire", export_id)


def expire_audit(session: Session, age: timedelta) -> str | None:
    """Delete the audit that ended longest ago, with all that belongs to it, unless it is being exported.

    Args:
        session: An open transaction.
        age: How long ago it must have ended.

    Returns:
        Its id; None if no audit is that old.

    Raises:
        ExportsNotEndedError: An export of the audit was asked for just now.
    """
    job_of_export = aliased(Job)
    exported = exists().where(
        Export.audit_id == Audit.id,
        Export.workspace_id == Audit.workspace_id,
        job_of_export.id == Export.job_id,
        job_of_export.state.not_in(sorted(TERMINAL)),
    )
    audits = select(Audit.id, Audit.workspace_id).join(Job, Job.id == Audit.job_id).where(~exported)
    found = session.execute(_longest_ended(audits, age)).one_or_none()
    if found is None:
        return None
    audit_id, workspace_id = found
    delete_audit(session, workspace_id=workspace_id, audit_id=audit_id)
    return _record(session, workspace_id, "audit.expire", audit_id)


def expire_recordings(session: Session, age: timedelta) -> str | None:
    """Delete the recordings of the audit that ended longest ago. Its results stay; a retry has to train again.

    Args:
        session: An open transaction.
        age: How long ago it must have ended.

    Returns:
        The audit's id; None if no audit that old has recordings.
    """
    trained = (AuditStep.step_key.startswith("train:"), AuditStep.state == "succeeded")
    unknown_or_some = or_(AuditStep.bytes.is_(None), AuditStep.bytes > 0)
    stored = exists().where(AuditStep.audit_id == Audit.id, *trained, unknown_or_some)
    audits = select(Audit.id, Audit.workspace_id, Job.state).join(Job, Job.id == Audit.job_id).where(stored)
    found = session.execute(_longest_ended(audits, age)).one_or_none()
    if found is None:
        return None
    audit_id, workspace_id, state = found
    steps = session.scalars(select(AuditStep).where(AuditStep.audit_id == audit_id, *trained)).all()
    prefixes = [step_prefix(workspace_id, audit_id, step.attempt or 0, step.step_key) for step in steps]
    purge_objects(session, workspace_id, *prefixes)
    values: dict[str, object] = {"bytes": 0}
    if state != State.SUCCEEDED:
        # The recording may be there for some seconds yet; a retry must not count on it.
        values = {"bytes": None, "attempt": None, "state": "pending", "started_at": None, "finished_at": None}
    session.execute(update(AuditStep).where(AuditStep.audit_id == audit_id, *trained).values(values))
    return _record(session, workspace_id, "recordings.expire", audit_id)


def expire_dataset(session: Session, age: timedelta) -> str | None:
    """Delete the oldest dataset that no audit uses, with its files.

    Args:
        session: An open transaction.
        age: How long ago it must have been uploaded.

    Returns:
        Its id; None if no such dataset is that old.
    """
    used = exists().where(Audit.workspace_id == Dataset.workspace_id, Audit.dataset_id == Dataset.id)
    dataset = session.scalars(
        select(Dataset)
        .where(Dataset.created_at < _before(age), ~used)
        .order_by(Dataset.created_at)
        .limit(1)
        .with_for_update(of=Dataset, skip_locked=True)
    ).one_or_none()
    # Whoever started an audit on it just now held the row until then.
    if dataset is None or session.scalar(select(Audit.id).where(Audit.dataset_id == dataset.id).limit(1)) is not None:
        return None
    close_gap(session, dataset, request_id=None)
    session.execute(delete(Dataset).where(Dataset.id == dataset.id))
    purge_objects(session, dataset.workspace_id, dataset_key(dataset.workspace_id, dataset.id))
    return _record(session, dataset.workspace_id, "dataset.expire", dataset.id)


def _longest_ended(query: S, age: timedelta) -> S:
    """Narrow a query over jobs to the one that ended first, at least `age` ago. It is locked; locked ones are left."""
    return (
        query.where(Job.state.in_(sorted(TERMINAL)), Job.finished_at < _before(age))
        .order_by(Job.finished_at)
        .limit(1)
        .with_for_update(of=Job, skip_locked=True, key_share=True)
    )


def _before(age: timedelta) -> ColumnElement[datetime]:
    return now() - literal(age, Interval())


def _record(session: Session, workspace_id: str, action: str, object_id: str) -> str:
    session.execute(
        insert(AuditLogEntry).values(id=new_id("log"), workspace_id=workspace_id, action=action, object_id=object_id)
    )
    return object_id
