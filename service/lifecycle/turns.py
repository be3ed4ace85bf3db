"""Decides which workspace is served next in a queue.

It is the one with the fewest running jobs there, and of those the one that was served the longest ago.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Integer,
    Interval,
    Select,
    Subquery,
    and_,
    cast,
    func,
    literal,
    null,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.lifecycle.job_rows import now
from service.lifecycle.transitions import State
from service.settings import Lane
from service.store.tables import Job, Turn, Workspace

FROZEN_SECONDS = 5
"""A worker that stops in the middle of a claim keeps the others of its lane waiting for no longer."""

SERVING_ORDER = (Job.priority, Job.next_attempt_at, Job.id)
"""In which order the due jobs of one workspace are taken."""


@dataclass(frozen=True)
class Line:
    """The due jobs of one workspace in one lane."""

    workspace_id: str
    running: int
    """Its jobs of the lane that workers hold."""
    served_at: datetime | None
    """When one of its jobs was last taken; None: never."""
    first_due_at: datetime
    """Since when its next job could have been taken."""
    first_id: str
    max_running: int | None
    """How many of its jobs in the queue may run at once; None: any number."""
    waiting: int
    """Its due jobs; at least 1."""


def take_turns(session: Session, lane: Lane) -> None:
    """Wait until no other transaction is claiming in the lane, and keep others from it until this one ends.

    Without it two workers would count the same running jobs, and both serve the same workspace.

    Args:
        session: An open transaction; the database ends it once nothing happens in it for FROZEN_SECONDS.
        lane: Whose jobs are claimed.
    """
    session.execute(
        select(
            func.set_config("idle_in_transaction_session_timeout", f"{FROZEN_SECONDS}s", True),
            func.pg_advisory_xact_lock(func.hashtextextended("claims " + lane, 0)),
        )
    )


def workspaces_in_order(session: Session, lane: Lane, *, max_running: int | None) -> Sequence[str]:
    """Read which workspaces a job of the lane may be taken of now, in the order in which they are served.

    Args:
        session: An open transaction.
        lane: Whose jobs.
        max_running: How many audits a workspace without a limit of its own runs at once; None: any number.
    """
    line = _lines(lane, max_running, counted=False)
    below = or_(line.c.max_running.is_(None), line.c.running < line.c.max_running)
    return session.scalars(select(line.c.workspace_id).where(below).order_by(*_order(line))).all()


def read_lines(session: Session, lane: Lane, *, max_running: int | None) -> list[Line]:
    """Read the due jobs of every workspace, as a worker that looks for one sees them.

    Args:
        session: An open transaction.
        lane: Whose jobs.
        max_running: As for `workspaces_in_order`.
    """
    line = _lines(lane, max_running, counted=True)
    return [Line(**row) for row in session.execute(select(line).order_by(*_order(line))).mappings()]


def is_due(lane: Lane) -> ColumnElement[bool]:
    """The condition that a job of the lane can be taken now."""
    return and_(Job.state == State.QUEUED, Job.lane == lane, Job.next_attempt_at <= now())


def has_late_job(session: Session, lane: Lane, *, since: timedelta, max_running: int | None) -> bool:
    """Say whether a job that a worker may take now could have been taken for some time.

    Args:
        session: An open transaction.
        lane: Whose jobs.
        since: For how long.
        max_running: As for `workspaces_in_order`.
    """
    late = select(Job.id).where(
        is_due(lane),
        Job.next_attempt_at <= now() - literal(since, Interval()),
        Job.workspace_id.not_in(at_limit(lane, max_running)),
    )
    return session.scalar(late.limit(1)) is not None


def at_limit(lane: Lane, max_running: int | None) -> Select[str]:
    """Select the workspaces of which no job is taken now: as many as may run do, or the workspace is being deleted.

    Args:
        lane: Whose jobs.
        max_running: As for `workspaces_in_order`.
    """
    running = _running(lane).subquery("running")
    return (
        select(Workspace.id)
        .outerjoin(running, running.c.workspace_id == Workspace.id)
        .where(or_(running.c.jobs >= _limit(lane, max_running), Workspace.deletion_requested_at.is_not(None)))
    )


def note_turn(session: Session, lane: Lane, workspace_id: str, at: datetime) -> None:
    """Write down that a job of the workspace was taken.

    Args:
        session: An open transaction in which `take_turns` was called.
        lane: The job's.
        workspace_id: Whose job it is.
        at: When it was taken.
    """
    session.execute(
        insert(Turn)
        .values(lane=lane, workspace_id=workspace_id, served_at=at)
        .on_conflict_do_update(index_elements=["lane", "workspace_id"], set_={"served_at": at})
    )


def _lines(lane: Lane, max_running: int | None, *, counted: bool) -> Subquery:
    """A row for each workspace with a due job. Its next job is one look into an index, however many wait behind it."""
    mine = is_due(lane) & (Job.workspace_id == Workspace.id)
    next_job = (
        select(Job.next_attempt_at.label("first_due_at"), Job.id.label("first_id"))
        .where(mine)
        .order_by(*SERVING_ORDER)
        .limit(1)
        .lateral("next_job")
    )
    running = _running(lane).subquery("running")
    columns = [
        Workspace.id.label("workspace_id"),
        func.coalesce(running.c.jobs, 0).label("running"),
        Turn.served_at,
        next_job.c.first_due_at,
        next_job.c.first_id,
        _limit(lane, max_running).label("max_running"),
    ]
    if counted:
        columns.append(select(func.count()).select_from(Job).where(mine).correlate(Workspace).label("waiting"))
    return (
        select(*columns)
        .select_from(Workspace)
        .join(next_job, true())
        .outerjoin(running, running.c.workspace_id == Workspace.id)
        .outerjoin(Turn, (Turn.workspace_id == Workspace.id) & (Turn.lane == lane))
        .where(Workspace.deletion_requested_at.is_(None))
        .subquery("line")
    )


def _order(line: Subquery) -> tuple[ColumnElement[object], ...]:
    return line.c.running, line.c.served_at.nulls_first(), line.c.first_due_at, line.c.first_id


def _limit(lane: Lane, max_running: int | None) -> ColumnElement[int | None]:
    """Only audits have a limit."""
    if lane != "gpu":
        return cast(null(), Integer)
    return func.coalesce(Workspace.max_running_audits, cast(max_running, Integer))


def _running(lane: Lane) -> Select[str, int]:
    """How many jobs of the lane workers hold, by workspace: they are those with a lease."""
    return (
        select(Job.workspace_id, func.count().label("jobs"))
        .where(Job.lane == lane, Job.lease_expires_at.is_not(None))
        .group_by(Job.workspace_id)
    )
