"""What attempts count, read back from the database."""

import time
from collections.abc import Callable

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service.contract.protocol import Stage
from service.store.counters import Counted, count, read_counters
from worker.supervisor import counters
from worker.supervisor.counters import StageCounters
from worker.supervisor.database import JobDatabase

Read = Callable[[str, str], float]


@pytest.fixture
def read(sessions: sessionmaker[Session]) -> Read:
    def read(name: str, label: str) -> float:
        with sessions() as session:
            return read_counters(session).get((name, label), 0.0)

    return read


def test_time_and_samples_are_counted_while_a_stage_lasts(
    sessions: sessionmaker[Session], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = StageCounters(JobDatabase(sessions).try_once)
    started = time.monotonic()
    counting.enter(Stage.TRAINING)
    counting.add_samples(32)
    counting.count()
    assert read("samples", "") == 0  # not yet: a write a step would be too many
    monkeypatch.setattr(counters, "COUNT_SECONDS", 0.0)
    counting.count()
    assert read("samples", "") == 32
    counting.add_samples(32)
    counting.enter(Stage.SCORING)
    counting.enter(None)
    took = time.monotonic() - started
    assert read("samples", "") == 64
    assert 0 < read("stage_seconds", "training") + read("stage_seconds", "scoring") <= took


def test_what_the_database_was_not_told_is_told_later_and_once(sessions: sessionmaker[Session], read: Read) -> None:
    away = True

    def write(act: Callable[[Session], bool]) -> bool | None:
        if away:
            raise OperationalError("", {}, Exception())
        return JobDatabase(sessions).try_once(act)

    counting = StageCounters(write)
    counting.add_samples(8)
    counting.count(now=True)
    away = False
    counting.count(now=True)
    counting.count(now=True)
    assert read("samples", "") == 8


def test_a_process_frozen_while_it_counted_holds_up_no_other(sessions: sessionmaker[Session], read: Read) -> None:
    counting = StageCounters(JobDatabase(sessions).try_once)
    counting.add_samples(8)
    with sessions() as frozen:
        count(frozen, Counted.SAMPLES, by=1)
        began = time.monotonic()
        counting.count(now=True)
        assert time.monotonic() - began < 5
        frozen.rollback()
    counting.count(now=True)
    assert read("samples", "") == 8
