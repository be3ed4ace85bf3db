"""What deleted resources have left behind: noted in the transaction that deletes them, and cleared away piece by piece.

So the resource is gone at once, however much hangs on it, and nothing is forgotten if a process dies in between or the
object store does not answer. The reconciler comes back until nothing is left.
"""

import time
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Interval, delete, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.job_rows import now
from service.store.objects import ObjectStore
from service.store.tables import AuditData, Finding, ObjectPurge, Score, ScoreList
from service.store.verdict_tables import Opinion, Verdict, VerdictBulk, VerdictChange

READERS_SECONDS = 60.0
"""How long an audit's data stay after it was deleted, for requests that were just reading them."""

LATE_SECONDS = 3600.0
"""When after a deletion its objects are deleted once more: a worker that had lost the job may have been storing some.
"""

AGAIN_SECONDS = 120.0
"""The time between two attempts at objects that could not be deleted."""

BATCH = 20_000
"""Rows deleted in one transaction."""


class _Part(NamedTuple):
    """Rows of one table that stand on an audit's `audit_data`."""

    name: str
    table: Any
    of_audit: ColumnElement[bool]
    key: tuple[Any, ...]
    """The rest of the table's primary key."""


Key = tuple[int | str, ...]


class _Place(NamedTuple):
    """How far a round is with an audit: looking for rows from the start would meet all that were just deleted."""

    part: str
    after: Key
    """The key behind which rows may be left."""


def purge_data(session: Session, audit_id: str) -> None:
    """Record that the scores and findings of an audit that is being deleted are to be deleted later.

    Args:
        session: An open transaction.
        audit_id: Id of the audit.
    """
    at = now() + _seconds(READERS_SECONDS)
    session.execute(update(AuditData).where(AuditData.audit_id == audit_id).values(purge_at=at))


def purge_objects(session: Session, workspace_id: str, *prefixes: str) -> None:
    """Record that the objects below some prefixes are to be deleted once the transaction is committed.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        *prefixes: Prefixes of the object store.
    """
    values = [{"prefix": prefix, "workspace_id": workspace_id} for prefix in prefixes]
    session.execute(insert(ObjectPurge).values(values).on_conflict_do_nothing())


def purge_pending() -> ColumnElement[bool]:
    """The condition that the objects under a noted prefix are not deleted, or just looked for once more."""
    return ObjectPurge.due_at != ObjectPurge.created_at + _seconds(LATE_SECONDS)


def purge_due(sessions: sessionmaker[Session], objects: ObjectStore, *, seconds: float) -> bool:
    """Delete what is due, until the time is up and the batch under way then is done.

    Several processes may do it at once.

    Args:
        sessions: Opens sessions of the database.
        objects: The object store.
        seconds: How long to go on.

    Returns:
        Whether nothing that is due is left.

    Raises:
        sqlalchemy.exc.OperationalError: The database does not answer.
    """
    until = time.monotonic() + seconds
    progress: dict[str, _Place] = {}
    while True:
        busy = _purge_batch(sessions, progress) | _purge_prefix(sessions, objects)
        if not busy:
            return True
        if time.monotonic() >= until:
            return False


def _purge_batch(sessions: sessionmaker[Session], progress: dict[str, _Place]) -> bool:
    """Deletes up to BATCH rows of one audit, or its own row once there are none; False where nothing is due."""
    with sessions.begin() as session:
        due = (
            select(AuditData.audit_id)
            .where(AuditData.purge_at <= now())
            .order_by(AuditData.purge_at, AuditData.audit_id)
        )
        # Passed over while somebody writes to it: a worker that does not know yet that it has lost its job.
        audit_id = session.scalar(due.limit(1).with_for_update(skip_locked=True))
        if audit_id is None:
            return False
        place = progress.pop(audit_id, None)
        parts = _parts(session, audit_id)
        reached = [part.name for part in parts].index(place.part) if place is not None else 0
        for part in parts[reached:]:
            after = place.after if place is not None and part.name == place.part else None
            last = _delete_batch(session, part, after=after)
            if last is not None:
                progress[audit_id] = _Place(part.name, last)
                return True
        if place is None:
            # Nothing was left from the start on: what such a worker had written meanwhile is gone, too.
            session.execute(delete(ScoreList).where(ScoreList.audit_id == audit_id))
            session.execute(delete(AuditData).where(AuditData.audit_id == audit_id))
    return True


def _parts(session: Session, audit_id: str) -> list[_Part]:
    """What stands on the audit's data, in an order that foreign keys allow. No list of scores goes before the end."""
    lists = session.scalars(select(ScoreList.id).where(ScoreList.audit_id == audit_id).order_by(ScoreList.id)).all()
    return [
        _Part("opinions", Opinion, Opinion.audit_id == audit_id, (Opinion.row, Opinion.reviewer_id)),
        _Part(
            "changes", VerdictChange, VerdictChange.audit_id == audit_id, (VerdictChange.row, VerdictChange.revision)
        ),
        _Part("verdicts", Verdict, Verdict.audit_id == audit_id, (Verdict.row,)),
        _Part("bulks", VerdictBulk, VerdictBulk.audit_id == audit_id, (VerdictBulk.id,)),
        _Part("findings", Finding, Finding.audit_id == audit_id, (Finding.attempt, Finding.row)),
        *(_Part(f"scores {number}", Score, Score.list_id == number, (Score.rank,)) for number in lists),
    ]


def _delete_batch(session: Session, part: _Part, *, after: Key | None) -> Key | None:
    """Deletes up to BATCH of the part's rows behind the key `after`; the last one's key, or None: there were none."""
    key = tuple_(*part.key)
    rows = select(*part.key).where(part.of_audit).order_by(*part.key).limit(BATCH)
    if after is not None:
        rows = rows.where(key > after)
    found = session.execute(rows).all()
    if not found:
        return None
    first, last = tuple(found[0]), tuple(found[-1])
    session.execute(delete(part.table).where(part.of_audit, key >= first, key <= last))
    return last


def _purge_prefix(sessions: sessionmaker[Session], objects: ObjectStore) -> bool:
    """Deletes the objects under one prefix; False where nothing is due."""
    with sessions.begin() as session:
        due = select(ObjectPurge.prefix).where(ObjectPurge.due_at <= now()).order_by(ObjectPurge.due_at).limit(1)
        taken = session.execute(
            update(ObjectPurge)
            .where(ObjectPurge.prefix.in_(due.with_for_update(skip_locked=True)))
            .values(due_at=now() + _seconds(AGAIN_SECONDS))
            .returning(ObjectPurge.prefix, ObjectPurge.created_at, now())
        ).one_or_none()
    if taken is None:
        return False
    prefix, created_at, at = taken
    if not objects.delete_tree(prefix):
        return True
    last = created_at + timedelta(seconds=LATE_SECONDS)
    with sessions.begin() as session:
        of = ObjectPurge.prefix == prefix
        session.execute(
            delete(ObjectPurge).where(of) if at >= last else update(ObjectPurge).where(of).values(due_at=last)
        )
    return True


def _seconds(seconds: float) -> Any:
    return literal(timedelta(seconds=seconds), Interval())
