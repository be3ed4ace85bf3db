"""What has become of the audits of a soak, and how long each took to go on after a fault."""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from benchmarks.faults import Fault
from service.contract.protocol import Stage
from service.lifecycle.transitions import TERMINAL, State
from service.store.tables import AuditEvent
from tests.support.chaos import Chaos, wait_for

START_UP = {Stage.PREPARING.value, Stage.LOADING.value}
"""Stages that an attempt goes through before it does anything new."""


@dataclass(frozen=True)
class Figures:
    """Of one soak. Audits are named by their ids, times are seconds."""

    audits: int
    seconds: float
    faults: dict[str, int]
    hits: int
    """Attempts under way that faults struck; one that two faults struck counts twice."""
    attempts: int
    succeeded: int
    lost: list[str]
    """Not in a terminal state at the end."""
    doubled: list[str]
    """Published more than once."""
    failed: dict[str, str]
    """After as many failures as are allowed, each of an attempt that a fault had hit: error code and faults."""
    failed_for_no_fault: dict[str, str]
    wrong: dict[str, str]
    """What is not as it should be: other scores than an undisturbed run's, scores of unpublished attempts, ..."""
    unexplained_failures: int
    """Failures of attempts that no fault had hit, over all audits."""
    orphans: int
    """Processes and work folders left at the end."""
    retaken: list[float]
    """From a hit to the next attempt's start, where the attempt was lost."""
    recovered: list[float]
    """From a hit to the next new work on the audit: a later stage than loading, a step of training, or its end."""

    @property
    def sound(self) -> bool:
        """Whether everything came to what it should."""
        return not (
            self.lost
            or self.doubled
            or self.failed_for_no_fault
            or self.wrong
            or self.unexplained_failures
            or self.orphans
        )

    def as_dict(self) -> dict[str, object]:
        """For a JSON file."""
        return asdict(self)


def figures_of(
    chaos: Chaos,
    audits: Sequence[str],
    faults: Sequence[Fault],
    *,
    expected: Sequence[tuple[object, ...]],
    seconds: float,
) -> Figures:
    """Judges every audit. `expected`: the scores of an undisturbed one."""
    orphans = left_behind(chaos, audits)
    hits = [(fault, audit, attempt) for fault in faults for audit, attempt in fault.hit]
    published = chaos.published_once()
    lost: list[str] = []
    failed: dict[str, str] = {}
    failed_for_no_fault: dict[str, str] = {}
    wrong: dict[str, str] = {}
    attempts = succeeded = unexplained = 0
    retaken: list[float] = []
    recovered: list[float] = []
    for audit in audits:
        job = chaos.job(audit)
        struck = [(fault, attempt) for fault, hit, attempt in hits if hit == audit]
        hit_attempts = {attempt for _, attempt in struck}
        attempts += job.attempt
        excess = max(0, job.failures - len(hit_attempts))
        unexplained += excess
        if job.state not in TERMINAL:
            lost.append(audit)
            continue
        try:
            chaos.assert_one_result(audit, published=job.state == State.SUCCEEDED, like=expected)
        except AssertionError as error:
            wrong[audit] = str(error)[:2000]
        if job.state == State.SUCCEEDED:
            succeeded += 1
        else:
            code = (job.error or {}).get("code", job.state)
            why = f"{code}: {', '.join(fault.kind for fault, _ in struck)}"
            (failed_for_no_fault if excess or job.state != State.FAILED else failed)[audit] = why
        events = chaos.events(audit)
        for fault, attempt in struck:
            again = next((e.created_at for e in events if e.attempt > attempt), None)
            moved = next((e.created_at for e in events if is_work(e) and follows(e, fault, attempt, again)), None)
            retaken += [(again - fault.at).total_seconds()] if again else []
            recovered += [(moved - fault.at).total_seconds()] if moved else []
    return Figures(
        audits=len(audits),
        seconds=seconds,
        faults=dict(Counter(fault.kind.value for fault in faults).most_common()),
        hits=len(hits),
        attempts=attempts,
        succeeded=succeeded,
        lost=lost,
        doubled=[audit for audit, count in published.items() if count > 1],
        failed=failed,
        failed_for_no_fault=failed_for_no_fault,
        wrong=wrong,
        unexplained_failures=unexplained,
        orphans=orphans,
        retaken=retaken,
        recovered=recovered,
    )


def left_behind(chaos: Chaos, audits: Sequence[str]) -> int:
    """Processes and work folders that are still there a while after the end."""
    try:
        wait_for(lambda: not chaos.children(audits) and not chaos.folders(audits), 20)
    except AssertionError:
        return len(chaos.children(audits)) + len(chaos.folders(audits))
    return 0


def is_work(event: AuditEvent) -> bool:
    """Whether it tells of something new done, and not of another start."""
    data = event.data or {}
    if event.type == "state":
        return data.get("state") == State.SUCCEEDED
    return event.type == "metric" or (event.type == "stage" and data.get("stage") not in START_UP)


def follows(event: AuditEvent, fault: Fault, attempt: int, again: datetime | None) -> bool:
    """Whether it is of the attempt that came after the fault: the next, or the same where that has survived."""
    return event.attempt > attempt if again else event.created_at > fault.at


def table(figures: Figures) -> Iterator[str]:
    """Markdown."""
    yield "| figure | value |\n|---|---|"
    yield f"| audits | {figures.audits} |"
    yield f"| wall time | {figures.seconds / 60:.1f} min |"
    yield f"| faults | {sum(figures.faults.values())} |"
    for kind, count in figures.faults.items():
        yield f"| - {kind} | {count} |"
    yield f"| attempts | {figures.attempts} |"
    yield f"| hits: attempts under way where a fault struck, some more than once | {figures.hits} |"
    yield f"| succeeded with the scores of an undisturbed run | {figures.succeeded - len(figures.wrong)} |"
    yield f"| lost | {len(figures.lost)} |"
    yield f"| doubled | {len(figures.doubled)} |"
    yield f"| wrong results or leftovers | {len(figures.wrong)} |"
    yield f"| failed after three failures, each by a fault | {len(figures.failed)} |"
    yield f"| failed otherwise | {len(figures.failed_for_no_fault)} |"
    yield f"| failures of attempts that no fault hit | {figures.unexplained_failures} |"
    yield f"| orphan processes and folders | {figures.orphans} |"
    for name, times in (("next attempt", figures.retaken), ("next new work", figures.recovered)):
        if times:
            yield f"| from a hit to the {name}, s: median, most | {statistics.median(times):.1f}, {max(times):.1f} |"
    for audit, why in {**figures.failed, **figures.failed_for_no_fault, **figures.wrong}.items():
        yield f"\n{audit}: {why}"
