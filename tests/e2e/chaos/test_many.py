"""Many audits on several workers, some of which are killed or have a wrong clock: each has one result, none has two."""

import json
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import libfaketime
import pytest

from service.contract.spec import TrainingConfig
from tests.support.chaos import SHORT, Chaos, Reference
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

MAX_HITS = 2
"""Kills of one audit; the third would rightly end it as failed."""


def test_twenty_audits_on_two_workers_that_are_killed_at_random(chaos: Chaos, undisturbed: Reference) -> None:
    expected = undisturbed(SHORT)
    chance = random.Random(20)
    audits = [chaos.create(SHORT) for _ in range(20)]
    hits = dict.fromkeys(audits, 0)
    workers = [chaos.start_worker(ready=False) for _ in range(2)]
    kills = 0

    def settled() -> bool:
        return all(chaos.job(audit).state == "succeeded" for audit in audits)

    deadline = time.monotonic() + 700
    next_kill = time.monotonic() + 4
    while not settled():
        assert time.monotonic() < deadline, "\n".join(chaos.story(audit) for audit in audits[:3])
        time.sleep(0.2)
        if time.monotonic() < next_kill or kills >= 12:
            continue
        number = chance.randrange(2)
        held = [audit for audit in audits if chaos.job(audit).state == "running"]
        if any(hits[audit] >= MAX_HITS for audit in held):
            continue
        for audit in held:
            hits[audit] += 1  # which of them it will be is not known before
        workers[number].kill()
        workers[number] = chaos.start_worker(ready=False)
        kills += 1
        next_kill = time.monotonic() + chance.uniform(2, 6)
    assert kills >= 5
    chaos.assert_settled(audits, like=expected)
    assert chaos.published_once() == dict.fromkeys(audits, 1)


def faketime_library() -> Path:
    """What fakes a process's clock, as its package brings it."""
    return Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"


@pytest.mark.parametrize("offset", ["+600", "-600"])
def test_a_workers_clock_is_off_by_ten_minutes(chaos: Chaos, undisturbed: Reference, offset: str) -> None:
    """Leases are counted on the database's clock and on monotonic ones."""
    # Read when a process starts; the child is given neither variable, but shares nothing of the worker's clock either.
    worker = chaos.start_worker(LD_PRELOAD=str(faketime_library()), FAKETIME=offset, DONT_FAKE_MONOTONIC="1")
    stamp = json.loads(next(line for line in worker.log.read_text().splitlines() if line.startswith("{")))["timestamp"]
    shift = (datetime.fromisoformat(stamp) - datetime.now(UTC)).total_seconds()
    assert abs(shift - int(offset)) < 120, "its clock is not off"
    audits = [chaos.create(SHORT) for _ in range(2)]
    chaos.assert_settled(audits, like=undisturbed(SHORT))
    assert [chaos.job(audit).attempt for audit in audits] == [1, 1]


def test_the_process_that_reconciles_is_killed_and_another_does_it(chaos: Chaos, undisturbed: Reference) -> None:
    """Both workers run a reconciler; jobs that nobody was woken for are found with either of them."""
    first = chaos.start_worker()
    chaos.start_worker()
    training: TrainingConfig = SHORT
    before = chaos.create(training)
    wait_for(lambda: chaos.job(before).state != "queued", 30, lambda: chaos.story(before))
    first.kill()
    after = chaos.create(training)
    chaos.assert_settled([before, after], like=undisturbed(training))
    assert chaos.published_once() == {before: 1, after: 1}
