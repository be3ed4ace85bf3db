"""A worker whose device has failed takes no jobs until the device has passed a check; others take its job."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.contract.failure import ErrorCode, Failure
from service.contract.protocol import FailedEvent
from service.store.tables import Audit, Worker
from tests.support.children.scripting import FINISHED, OUTPUTS
from tests.support.supervisor_bench import Bench
from tests.support.waiting import wait_for
from worker.supervisor.device_watch import CHECK_COMMAND, DeviceWatch
from worker.supervisor.heartbeat import Heartbeat

TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020)."
CHECK = f"import os, sys; sys.exit(0 if os.path.exists(sys.argv[1]) else {TOO_OLD!r})"
FAILURE = Failure(code=ErrorCode.DEVICE_FAILED, message="The GPU failed.", hint="Look at it.")
FAILED: list[Any] = ["say", FailedEvent(failure=FAILURE).model_dump(mode="json")]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watching(clock: Clock, sound: Path) -> DeviceWatch:
    return DeviceWatch(
        retry_seconds=15, environment=lambda: dict(os.environ), command=(sys.executable, "-c", CHECK, str(sound)),
        clock=clock,
    )  # fmt: skip


def test_it_rests_and_is_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, sound = Clock(), tmp_path / "sound"
    watch = watching(clock, sound)
    assert watch.may_take_jobs()
    watch.attempt_ended(device_failed=True)
    sound.touch()
    clock.now += 29
    assert not watch.may_take_jobs(), "its job is due after 15 s, and another worker is to have it"
    sound.unlink()
    clock.now += 1
    assert not watch.may_take_jobs()
    assert watch.failed
    assert TOO_OLD in caplog.text
    sound.touch()
    assert not watch.may_take_jobs(), "a check is not made with every wake-up"
    clock.now += 30
    assert watch.may_take_jobs()
    assert not watch.failed


def test_failures_one_after_the_other_count_against_it(tmp_path: Path) -> None:
    clock, sound = Clock(), tmp_path / "sound"
    sound.touch()
    watch = watching(clock, sound)
    rests = []
    for device_failed in (True, True, True, True, True, False, True):
        watch.attempt_ended(device_failed=device_failed)
        before = clock.now
        while not watch.may_take_jobs():
            clock.now += 30
        rests.append(clock.now - before)
    assert rests == [30, 120, 480, 1920, 1920, 0, 30]


@pytest.mark.parametrize("command", [("/nowhere/program",), (sys.executable, "-c", "import os; os.abort()")])
def test_a_check_that_says_nothing_is_not_passed(tmp_path: Path, command: tuple[str, ...]) -> None:
    clock = Clock()
    watch = DeviceWatch(retry_seconds=15, environment=lambda: dict(os.environ), command=command, clock=clock)
    watch.attempt_ended(device_failed=True)
    clock.now += 60
    assert not watch.may_take_jobs()


def test_the_check_itself(tmp_path: Path) -> None:
    """Where no program can use a GPU, a device that has failed is not taken for a machine without one."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    found = subprocess.run(CHECK_COMMAND, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 1
    assert "CUDA" in found.stderr.splitlines()[-1]


def test_the_job_is_another_worker_s_and_this_one_takes_none(
    bench: Bench, make_audit: Callable[..., Audit], sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    sound = tmp_path / "sound"
    check = (sys.executable, "-c", CHECK, str(sound))
    first, second = make_audit(), make_audit()
    failing = bench.supervisor(FAILED, owner="failing", device_check=check, retry_seconds=0.1)
    heartbeat = Heartbeat(
        sessions, owner="failing", lane="gpu", seconds=60, device_failed=lambda: failing.device_failed
    )

    def failed_at() -> Any:
        heartbeat._beat()
        with sessions() as session:
            return session.get_one(Worker, "failing").device_failed_at

    assert failed_at() is None
    assert failing.run_due("gpu") == 1, "of two that are due"
    job = bench.job(first)
    assert (job.state, job.failures, job.error) == ("queued", 1, None)
    since = failed_at()
    assert since is not None
    wait_for(lambda: bench.supervisor(OUTPUTS, FINISHED, owner="sound").run_due("gpu") == 0)
    assert [bench.job(audit).state for audit in (first, second)] == ["succeeded"] * 2
    assert (bench.job(first).attempt, bench.job(second).attempt) == (2, 1)

    third = make_audit()
    for _ in range(3):
        assert failing.run_due("gpu") == 0
    assert failing.run_due("io") == 0
    assert (bench.job(third).state, bench.job(third).attempt) == ("queued", 0)
    assert failed_at() == since, "since when, not when last"
    sound.touch()
    wait_for(lambda: failing.run_due("gpu") >= 1)
    assert bench.job(third).attempt >= 1
