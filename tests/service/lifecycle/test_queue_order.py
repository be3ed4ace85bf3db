"""The forecast of a queue: who is taken when, worked out by hand."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import inf

import pytest

from service.lifecycle.queue_order import LiveWorker, starts
from service.lifecycle.turns import Line

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def line(name: str, waiting: int, *, running: int = 0, served: int | None = None, limit: int | None = None) -> Line:
    return Line(
        workspace_id=name,
        running=running,
        served_at=None if served is None else LONG_AGO.replace(minute=served),
        first_due_at=LONG_AGO,
        first_id=name,
        max_running=limit,
        waiting=waiting,
    )


@pytest.mark.parametrize(
    ("lines", "workers", "expected"),
    [
        # One worker that is free in 10 s: turns, and 60 s each.
        (
            [line("a", 3, running=1, served=1), line("b", 2)],
            [LiveWorker(10, "a")],
            [("b", 10), ("a", 70), ("b", 130), ("a", 190), ("a", 250)],
        ),
        # Two of them: whoever has fewer running comes first.
        (
            [line("a", 2, running=2, served=1), line("b", 2, served=2)],
            [LiveWorker(5, "a"), LiveWorker(30, "a")],
            [("b", 5), ("a", 30), ("b", 65), ("a", 90)],
        ),
        # An idle worker takes the other workspace's job while the first is at its limit.
        (
            [line("a", 2, running=1, limit=1), line("b", 1, served=2)],
            [LiveWorker(100, "a"), LiveWorker(0)],
            [("b", 0), ("a", 100), ("a", 160)],
        ),
        # At its limit by a job of a worker that is gone: nothing can be told.
        ([line("a", 2, running=1, limit=1)], [LiveWorker(0)], []),
        # Nobody knows when the worker is free: the order is known.
        ([line("a", 1, served=1), line("b", 1)], [LiveWorker(inf, "c")], [("b", inf), ("a", inf)]),
        # No worker: jobs are taken while none ends.
        (
            [line("a", 2, running=1), line("b", 3, limit=2)],
            None,
            [("b", inf), ("a", inf), ("b", inf), ("a", inf)],
        ),
    ],
)
def test_who_is_taken_when(
    lines: Sequence[Line], workers: Sequence[LiveWorker] | None, expected: list[tuple[str, float]]
) -> None:
    found = [(start.workspace_id, start.after) for start in starts(lines, workers, lambda _: 60.0)]
    assert found == expected
