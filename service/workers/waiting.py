"""How far in front a waiting job is, when it may start, and why it does not start at once."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import islice
from math import inf, isfinite

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from service.lifecycle.job_rows import now
from service.lifecycle.queue_order import LiveWorker, Start, starts
from service.lifecycle.transitions import HELD, State
from service.lifecycle.turns import SERVING_ORDER, Line, is_due, read_lines
from service.lifecycle.workers import is_alive
from service.settings import Lane, Settings
from service.store.tables import Audit, Job, Worker
from service.workers.schemas import Waiting

POSITIONS_SOUGHT = 10_000
"""How far into a lane's queue jobs are looked for."""

RECENT = 200
"""Newest succeeded jobs of a lane from which is taken how long one takes."""

_NAMES: dict[Lane, str] = {"gpu": "audits", "io": "jobs"}

Times = Mapping[str | None, float]
"""Median seconds of a workspace's jobs, and of all workspaces' under None."""


def read_waiting(session: Session, lane: Lane, job_ids: Collection[str], settings: Settings) -> dict[str, Waiting]:
    """Read the places of queued jobs.

    Args:
        session: An open transaction.
        lane: Whose queue they are in.
        job_ids: Which jobs, of whatever workspace.
        settings: Hold the limit of running audits, and how often workers say that they are alive.

    Returns:
        By the job's id, of each one that was asked for.
    """
    if not job_ids:
        return {}
    ranks = _read_ranks(session, lane, job_ids)
    lines = read_lines(session, lane, max_running=settings.max_running_audits)
    by_workspace = {line.workspace_id: line for line in lines}
    times = _read_times(session, lane)
    at, workers, alive = _read_workers(session, lane, settings, times)
    order = starts(lines, workers or None, lambda workspace_id: _seconds(times, workspace_id))
    found = _find(order, set(ranks.values()))
    return {
        job_id: _place(lane, by_workspace.get(ranks[job_id][0]), found.get(ranks[job_id]), at, workers, alive)
        if job_id in ranks
        else Waiting(position=None, expected_start_at=None, reason="It failed, and is tried again after a while.")
        for job_id in job_ids
    }


def _place(
    lane: Lane,
    line: Line | None,
    found: tuple[int, Start] | None,
    at: datetime,
    workers: Collection[LiveWorker],
    alive: int,
) -> Waiting:
    position, start = (None, None) if found is None else found
    after = inf if start is None else start.after
    expected_start_at = None
    # An idle worker takes it as soon as it has heard of it: there is nothing to expect.
    if workers and isfinite(after) and after > 0:
        expected_start_at = (at + timedelta(seconds=after)).replace(microsecond=0)
    name = _NAMES[lane]
    if line is not None and line.max_running is not None and line.running >= line.max_running:
        reason = (
            f"As many {name} of this workspace run as may at once: {line.running}. The next one starts when one of "
            "them ends."
        )
    elif not alive:
        reason = f"No worker that takes {name} is alive. It starts when one does."
    elif not workers:
        reason = f"The device of every worker that takes {name} has failed. It starts when one has passed a check."
    elif position is None:
        reason = (
            f"It is not among the first {POSITIONS_SOUGHT:,} of the queue, or limits of running {name} are reached."
        )
    elif after == 0:
        reason = "A worker is idle, and takes it within seconds."
    elif expected_start_at is None:
        reason = f"All workers are busy, and no {name} have succeeded yet from which to tell how long they take."
    else:
        reason = "All workers are busy."
    return Waiting(position=position, expected_start_at=expected_start_at, reason=reason)


def _find(order: Iterable[Start], wanted: set[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, Start]]:
    """Find the n-th start of workspaces: its position among all, from 1 on."""
    found: dict[tuple[str, int], tuple[int, Start]] = {}
    passed: dict[str, int] = {}
    for position, start in enumerate(islice(order, POSITIONS_SOUGHT), start=1):
        passed[start.workspace_id] = passed.get(start.workspace_id, 0) + 1
        key = (start.workspace_id, passed[start.workspace_id])
        if key in wanted:
            found[key] = (position, start)
            if len(found) == len(wanted):
                break
    return found


def _read_ranks(session: Session, lane: Lane, job_ids: Collection[str]) -> dict[str, tuple[str, int]]:
    """Read whose jobs they are, and the how manieth of the workspace; those that are not due are left out."""
    mine = select(Job.workspace_id).where(Job.id.in_(job_ids))
    ranked = (
        select(
            Job.id,
            Job.workspace_id,
            func.row_number().over(partition_by=Job.workspace_id, order_by=SERVING_ORDER).label("rank"),
        )
        .where(is_due(lane), Job.workspace_id.in_(mine))
        .subquery()
    )
    rows = session.execute(select(ranked).where(ranked.c.id.in_(job_ids)))
    return {job_id: (workspace_id, rank) for job_id, workspace_id, rank in rows}


def _read_times(session: Session, lane: Lane) -> Times:
    took = func.extract("epoch", Job.finished_at - Job.started_at)
    recent = (
        select(Job.workspace_id, took.label("seconds"))
        .where(Job.lane == lane, Job.state == State.SUCCEEDED)
        .order_by(Job.finished_at.desc())
        .limit(RECENT)
        .subquery()
    )
    median = func.percentile_cont(0.5).within_group(recent.c.seconds)
    rows = session.execute(
        select(recent.c.workspace_id, median).group_by(func.grouping_sets(tuple_(recent.c.workspace_id), tuple_()))
    )
    return {workspace_id: seconds for workspace_id, seconds in rows if seconds is not None}


def _seconds(times: Times, workspace_id: str) -> float:
    return times.get(workspace_id, times.get(None, inf))


def _read_workers(
    session: Session, lane: Lane, settings: Settings, times: Times
) -> tuple[datetime, list[LiveWorker], int]:
    """Read the database's clock, the workers that take jobs, and how many are alive, with those that take none."""
    at = session.scalars(select(now())).one()
    rows = session.execute(
        select(Worker.device_failed_at, Job.workspace_id, Job.started_at, Audit.eta_at)
        .outerjoin(Job, (Job.owner == Worker.owner) & Job.state.in_(sorted(HELD)))
        .outerjoin(Audit, Audit.job_id == Job.id)
        .where(Worker.lane == lane, is_alive(settings.heartbeat_seconds))
    ).all()
    workers = []
    for failed_at, workspace_id, started_at, eta_at in rows:
        if workspace_id is None:
            if failed_at is None:
                workers.append(LiveWorker(0.0))
            continue
        left = inf
        if eta_at is not None:
            left = (eta_at - at).total_seconds()
        elif started_at is not None:
            left = _seconds(times, workspace_id) - (at - started_at).total_seconds()
        # One that takes longer than it should may end at any time.
        workers.append(LiveWorker(max(left, 1.0), workspace_id))
    return at, workers, len(rows)
