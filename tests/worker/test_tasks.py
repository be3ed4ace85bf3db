"""A real Celery worker process on a real Valkey: woken by messages, and by its own start."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.audits import request_cancel
from service.lifecycle.wakeup import wake
from service.lifecycle.workers import live_workers
from service.migration import head_revision
from service.settings import Settings
from service.store.tables import Audit, Job, Worker
from tests.support.children.scripting import FINISHED, OUTPUTS, scripted_children
from tests.support.ended import has_ended
from tests.support.waiting import wait_for

SECRET = "Xylophone-Quokka"
CELERY_ENDS = "worker: Warm shutdown (MainProcess)"

StartWorker = Callable[..., subprocess.Popen[bytes]]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is an NVIDIA driver")
def test_a_worker_that_sees_no_gpu_does_not_start_unless_it_may(settings: Settings, tmp_path: Path) -> None:
    assert settings.database_url is not None
    assert settings.broker_url is not None
    environment = {
        **os.environ,
        "FINETOOTH_DATABASE_URL": settings.database_url.get_secret_value(),
        "FINETOOTH_BROKER_URL": settings.broker_url.get_secret_value(),
        "FINETOOTH_DATA_DIR": str(settings.data_dir),
        "FINETOOTH_CACHE_DIR": str(settings.cache_dir),
        "FINETOOTH_TRAIN_ON": "gpu",
    }
    command = [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "--pool", "threads", "-Q"]
    done = subprocess.run([*command, "gpu"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert (done.returncode, last.startswith("finetooth: this worker sees no GPU")) == (2, True), done.stderr
    assert "FINETOOTH_TRAIN_ON=any" in last


def test_wake_ups_run_what_is_due_once(
    settings: Settings,
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    sessions: sessionmaker[Session],
) -> None:
    for _ in range(2):
        start_worker(OUTPUTS, FINISHED)
    time.sleep(1)  # their own wake-ups have found nothing
    audits = [make_audit(), make_audit()]
    for _ in range(5):
        assert wake(settings, "gpu")
    wait_for(lambda: [state(audit) for audit in audits] == ["succeeded"] * 2)
    with sessions() as session:
        assert session.scalars(select(Job.attempt).where(Job.kind == "audit")).all() == [1, 1]
    # A wake-up for nothing is dropped, and the worker hears the next one.
    assert wake(settings, "gpu")
    later = make_audit()
    assert wake(settings, "gpu")
    wait_for(lambda: state(later) == "succeeded")


def test_what_was_queued_while_no_worker_lived_is_picked_up(
    make_audit: Callable[..., Audit], start_worker: StartWorker, state: Callable[[Audit], str]
) -> None:
    audit = make_audit()
    start_worker(OUTPUTS, FINISHED, lane="io")
    start_worker(OUTPUTS, FINISHED)
    wait_for(lambda: state(audit) == "succeeded")


def test_a_worker_that_is_told_to_end_gives_its_job_to_another(
    settings: Settings,
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    sessions: sessionmaker[Session],
    tmp_path: Path,
) -> None:
    audit = make_audit()
    first = start_worker(["touch", str(tmp_path / "running")], ["exit_when_told"])
    wait_for((tmp_path / "running").exists)
    first.send_signal(signal.SIGTERM)
    first.wait(60)
    assert state(audit) == "queued"
    assert scripted_children(settings.data_dir) == []
    assert list(settings.work.glob("*")) == []
    start_worker(OUTPUTS, FINISHED)
    wait_for(lambda: state(audit) == "succeeded")
    with sessions() as session:
        assert session.scalars(select(Job.attempt).where(Job.subject_id == audit.id)).one() == 2


def test_what_a_killed_worker_held_is_taken_over_without_a_wake_up_of_anybody(
    settings: Settings,
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    sessions: sessionmaker[Session],
    tmp_path: Path,
) -> None:
    audit = make_audit()
    first = start_worker(["touch", str(tmp_path / "running")], ["exit_when_told"])
    wait_for((tmp_path / "running").exists)
    start_worker(OUTPUTS, FINISHED)
    first.kill()
    first.wait()
    wait_for(lambda: state(audit) == "succeeded")
    with sessions() as session:
        job = session.scalars(select(Job).where(Job.subject_id == audit.id)).one()
    assert (job.attempt, job.failures) == (2, 1)
    assert scripted_children(settings.data_dir) == []


def test_a_crash_is_logged_with_its_request_and_without_what_the_child_said(
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    sessions: sessionmaker[Session],
    tmp_path: Path,
) -> None:
    audit = make_audit()
    with sessions.begin() as session:
        session.execute(update(Job).values(request_id="req-17"))
    said = f'Tokenizing {SECRET}\n  File "{__file__}", line 7, in f\nValueError: {SECRET}\n'
    worker = start_worker(["raw", f"{SECRET}\n", 1], ["stderr", said, 1], ["exit", 1])
    wait_for(lambda: state(audit) == "failed")
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    output = (tmp_path / "worker-0.log").read_text()
    assert SECRET not in output
    # That one line Celery's signal handler writes past all logging.
    lines = [json.loads(line) for line in output.splitlines() if line not in ("", CELERY_ENDS)]
    (told,) = [line for line in lines if "ValueError" in line["message"]]
    assert f'File "{__file__}", line 7, in f' in told["message"]
    assert (told["level"], told["audit"], told["attempt"], told["request_id"]) == ("error", audit.id, 1, "req-17")


def test_a_wake_up_that_was_lost_is_sent_again(
    settings: Settings,
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    sessions: sessionmaker[Session],
) -> None:
    """Nobody sends one for these audits, and the broker forgets whatever it knew."""
    start_worker(OUTPUTS, FINISHED)
    assert settings.broker_url is not None
    with redis.Redis.from_url(settings.broker_url.get_secret_value().replace("redis+socket", "unix")) as broker:
        broker.flushall()
    audits = [make_audit(), make_audit()]
    wait_for(lambda: [state(audit) for audit in audits] == ["succeeded"] * 2)
    with sessions() as session:
        (worker,) = live_workers(session, heartbeat_seconds=0.5)
    assert (worker.lane, worker.subject_id) == ("gpu", None)


def test_a_worker_older_than_the_schema_takes_no_job(
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    sessions: sessionmaker[Session],
    tmp_path: Path,
) -> None:
    """Unless the schema names it as one that runs there."""
    with sessions.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        session.execute(text("COMMENT ON TABLE alembic_version IS '9998'"))
    audit = make_audit()
    start_worker(OUTPUTS, FINISHED)
    wait_for(lambda: "no job is taken" in (tmp_path / "worker-0.log").read_text())
    time.sleep(3)  # the watch has looked meanwhile
    assert state(audit) == "queued"
    assert (tmp_path / "worker-0.log").read_text().count("no job is taken") == 1
    with sessions.begin() as session:
        session.execute(text(f"COMMENT ON TABLE alembic_version IS '{head_revision()}'"))
    wait_for(lambda: state(audit) == "succeeded")


def test_a_worker_that_ends_signs_off(start_worker: StartWorker, sessions: sessionmaker[Session]) -> None:
    worker = start_worker(lane="io")

    def workers() -> list[str]:
        with sessions() as session:
            return [worker.lane for worker in session.scalars(select(Worker))]

    wait_for(lambda: workers() == ["io"])
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    assert workers() == []


def test_a_busy_worker_takes_no_message_from_an_idle_one(
    settings: Settings,
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    sessions: sessionmaker[Session],
    tmp_path: Path,
) -> None:
    start_worker(["touch", str(tmp_path / "running")], ["exit_when_told"])
    long = make_audit()
    assert wake(settings, "gpu")
    wait_for((tmp_path / "running").exists)
    assert wake(settings, "gpu")
    time.sleep(1)
    assert settings.broker_url is not None
    with redis.Redis.from_url(settings.broker_url.get_secret_value().replace("redis+socket", "unix")) as broker:
        assert broker.llen("gpu") == 1
    short = make_audit()
    start_worker(OUTPUTS, FINISHED)
    wait_for(lambda: state(short) == "succeeded")
    assert state(long) == "running"
    with sessions.begin() as session:
        request_cancel(session, workspace_id=long.workspace_id, audit_id=long.id)
    wait_for(lambda: state(long) == "cancelled")


def test_a_worker_is_light(start_worker: StartWorker) -> None:
    """It shares its machine with what trains: torch is not in it."""
    worker = start_worker()
    if os.geteuid() == 0:  # Nobody else may look into it.
        libraries = {Path(region.path).name for region in psutil.Process(worker.pid).memory_maps()}
        assert not [name for name in libraries if "torch" in name]
    modules = subprocess.run(
        [sys.executable, "-c", "import sys, worker.supervisor.dispatch; print(*sorted(sys.modules))"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"torch", "transformers", "peft", "fastapi"} & set(modules)


@pytest.mark.parametrize(("lane", "servers"), [("gpu", 1), ("io", 0)])
def test_only_what_trains_imports_torch_ahead_and_it_ends_with_its_worker(
    start_worker: StartWorker, lane: str, servers: int
) -> None:
    worker = start_worker(lane=lane, app="worker.celery_app")
    wait_for(lambda: len(psutil.Process(worker.pid).children()) == servers)
    children = psutil.Process(worker.pid).children()
    assert all("worker.child.fork_server" in child.cmdline() for child in children)
    worker.kill()
    wait_for(lambda: all(has_ended(child) for child in children))


def test_without_a_database_or_broker_it_says_what_to_set() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FINETOOTH_")}
    result = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert result.returncode != 0
    assert "FINETOOTH_DATABASE_URL" in result.stderr + result.stdout
