"""In which order a lane's due jobs will be taken, as `service.lifecycle.jobs.claim` takes them."""

import heapq
from collections.abc import Iterator, Sequence

from service.lifecycle.turns import Line


def serving_order(lines: Sequence[Line]) -> Iterator[str]:
    """Yield the workspace of every due job, in the order in which they are taken if nothing else changes meanwhile.

    No job ends, none comes, and workers get free one after the other: so it says who goes before whom, and not when.

    Args:
        lines: One for each workspace that has a due job.
    """
    # Served never, then long ago, then within this order: the last two are never compared with each other's times.
    heap = [
        (
            line.running,
            (0, 0.0) if line.served_at is None else (1, line.served_at.timestamp()),
            line.first_due_at,
            line.first_id,
            line.waiting,
            line.workspace_id,
        )
        for line in lines
    ]
    heapq.heapify(heap)
    taken = 0
    while heap:
        running, _, due_at, identity, waiting, workspace_id = heapq.heappop(heap)
        yield workspace_id
        taken += 1
        if waiting > 1:
            heapq.heappush(heap, (running + 1, (2, float(taken)), due_at, identity, waiting - 1, workspace_id))
