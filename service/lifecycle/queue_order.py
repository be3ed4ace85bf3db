"""In which order a lane's due jobs will be taken, as `service.lifecycle.jobs.claim` takes them, and when."""

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from service.lifecycle.turns import Line


@dataclass(frozen=True)
class LiveWorker:
    """A worker that takes jobs of the lane."""

    free_after: float
    """Seconds from now until it takes the next job; 0: it is idle; infinity: not known."""
    workspace_id: str | None = None
    """Whose job it holds; None: it is idle."""


@dataclass(frozen=True)
class Start:
    """A due job that is taken, in its turn."""

    workspace_id: str
    after: float
    """Seconds from now; infinity: not known."""


def starts(
    lines: Sequence[Line], workers: Sequence[LiveWorker] | None, seconds: Callable[[str], float]
) -> Iterator[Start]:
    """Yield the due jobs in the order in which they are taken if none comes and none is cancelled meanwhile.

    Args:
        lines: One for each workspace that has a due job.
        workers: Those that are alive; None: nobody knows, and jobs are taken one after the other while none ends.
        seconds: How long a job of a workspace takes; infinity: not known.
    """
    line_of = {line.workspace_id: line for line in lines}
    running = {line.workspace_id: line.running for line in lines}
    waiting = {line.workspace_id: line.waiting for line in lines}
    # Served never, then long ago, then within this order: times and numbers are never compared with each other.
    served = {
        line.workspace_id: (0, 0.0) if line.served_at is None else (1, line.served_at.timestamp()) for line in lines
    }
    numbers = itertools.count()
    entries: list[tuple[int, tuple[int, float], object, str, str]] = []

    def offer(workspace_id: str) -> None:
        line = line_of[workspace_id]
        if waiting[workspace_id] and (line.max_running is None or running[workspace_id] < line.max_running):
            entry = (running[workspace_id], served[workspace_id], line.first_due_at, line.first_id, workspace_id)
            heapq.heappush(entries, entry)

    def next_workspace() -> str | None:
        while entries:
            jobs, turn, _, _, workspace_id = heapq.heappop(entries)
            # Else what it said has changed, and another entry says what holds now.
            if waiting[workspace_id] and (jobs, turn) == (running[workspace_id], served[workspace_id]):
                return workspace_id
        return None

    for workspace_id in line_of:
        offer(workspace_id)
    ends = [(worker.free_after, next(numbers), worker.workspace_id) for worker in workers or ()]
    heapq.heapify(ends)
    idle, at = 0, float("inf")
    while workers is None or ends:
        if workers is None:
            idle = 1
        else:
            at, _, ended = heapq.heappop(ends)
            idle += 1
            if ended in line_of:
                running[ended] -= 1
                offer(ended)
        while idle and (taken := next_workspace()) is not None:
            yield Start(taken, at)
            idle -= 1
            running[taken] += 1
            waiting[taken] -= 1
            served[taken] = (2, float(next(numbers)))
            offer(taken)
            if workers is not None:
                heapq.heappush(ends, (at + seconds(taken), next(numbers), taken))
        if workers is None and idle:
            return
