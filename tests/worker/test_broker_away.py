"""A worker whose broker is away, or has another one that stands in: what is queued starts all the same."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.wakeup import wake
from service.lifecycle.workers import live_workers
from service.local.valkey import EmbeddedValkey
from service.ops.broker_check import broker_answers
from service.settings import Settings
from service.store.tables import Audit, Job
from tests.support.children.scripting import FINISHED, OUTPUTS
from tests.support.ports import free_port
from tests.support.tcp_valkey import GROUP, sentinel, tcp_valkey
from tests.support.waiting import wait_for

StartWorker = Callable[..., subprocess.Popen[bytes]]

SOON = 6.0
"""Seconds from an audit's creation to its start: two, and a look every second, on a busy machine."""

NEVER = "1000000"
"""Seconds: only a message starts anything."""


@pytest.fixture
def broker(server_folder: Path) -> Iterator[EmbeddedValkey]:
    """One of its own, to be broken."""
    server = EmbeddedValkey(server_folder / "broken", log=server_folder / "broken.log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def settings(settings: Settings, broker: EmbeddedValkey) -> Settings:
    return settings.model_copy(update={"broker_url": SecretStr(broker.url)})


def waited(sessions: sessionmaker[Session], audit: Audit) -> float:
    """From the audit's creation to its start, once it has succeeded."""
    with sessions() as session:
        job = session.scalars(select(Job).where(Job.subject_id == audit.id)).one()
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert job.started_at is not None
    return (job.started_at - job.created_at).total_seconds()


def with_brokers(settings: Settings, address: str) -> Settings:
    """The same settings with other brokers, checked as those of an installation are."""
    return Settings(**{**settings.model_dump(exclude_unset=True), "broker_url": address})


def has_heartbeat(sessions: sessionmaker[Session]) -> bool:
    with sessions() as session:
        return bool(live_workers(session, heartbeat_seconds=0.5))


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_an_audit_of_meanwhile_starts_within_seconds(
    how: str,
    broker: EmbeddedValkey,
    settings: Settings,
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    sessions: sessionmaker[Session],
) -> None:
    start_worker(OUTPUTS, FINISHED, FINETOOTH_POLL_SECONDS="1")
    assert broker.child is not None
    if how == "frozen":
        broker.child.process.send_signal(signal.SIGSTOP)
    else:
        broker.stop()
    try:
        for _ in range(2):
            audit = make_audit()
            assert not wake(settings, "gpu")
            wait_for(lambda: state(audit) == "succeeded")  # noqa: B023  # called before the next one
            assert waited(sessions, audit) < SOON
    finally:
        if broker.child is not None:
            broker.child.process.send_signal(signal.SIGCONT)
    # The broker is back: what Celery thinks of the jobs meanwhile keeps no message from it.
    if how == "stopped":
        broker.start()
    audit = make_audit()
    wait_for(lambda: wake(settings, "gpu"))
    wait_for(lambda: state(audit) == "succeeded")


def test_a_worker_that_never_saw_its_broker_works_and_ends_in_order(
    broker: EmbeddedValkey,
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    sessions: sessionmaker[Session],
    tmp_path: Path,
) -> None:
    broker.stop()
    first = make_audit()
    start_worker(OUTPUTS, FINISHED, ready=False)
    wait_for(lambda: state(first) == "succeeded")
    assert has_heartbeat(sessions)
    # A second one, which is told to end at work: it gives its job back, and the first goes on with it.
    ending = start_worker(["touch", str(tmp_path / "running")], ["exit_when_told"], ready=False)
    held = None
    while held is None:  # until it is the second that takes one
        audit = make_audit()
        wait_for(lambda: state(audit) != "queued")  # noqa: B023  # called before the next one
        wait_for(lambda: state(audit) == "succeeded" or (tmp_path / "running").exists())  # noqa: B023
        held = audit if (tmp_path / "running").exists() else None
    ending.send_signal(signal.SIGTERM)
    ending.wait(60)
    wait_for(lambda: state(audit) == "succeeded")
    with sessions() as session:
        job = session.scalars(select(Job).where(Job.subject_id == audit.id)).one()
    assert (job.attempt, job.failures) == (2, 0)


def test_a_second_broker_stands_in_for_a_dead_one(
    settings: Settings,
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    tmp_path: Path,
) -> None:
    """Through messages alone: nobody looks into the database."""
    with tcp_valkey(tmp_path) as second:
        address = f"redis://127.0.0.1:{free_port()}/0;redis://127.0.0.1:{second}/0"
        both = with_brokers(settings, address)
        assert broker_answers(both)
        start_on(start_worker, address)
        woken(both, make_audit, state)


def test_a_second_broker_stands_in_for_one_that_dies(
    settings: Settings,
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    tmp_path: Path,
) -> None:
    with ExitStack() as first_one, tcp_valkey(tmp_path) as second:
        first = first_one.enter_context(tcp_valkey(tmp_path))
        address = f"redis://127.0.0.1:{first}/0;redis://127.0.0.1:{second}/0"
        both = with_brokers(settings, address)
        start_on(start_worker, address)
        woken(both, make_audit, state)
        first_one.close()
        woken(both, make_audit, state)


def test_sentinels_name_the_master_and_the_next_one(
    settings: Settings,
    make_audit: Callable[..., Audit],
    start_worker: StartWorker,
    state: Callable[[Audit], str],
    tmp_path: Path,
) -> None:
    with ExitStack() as master_one:
        master = master_one.enter_context(tcp_valkey(tmp_path))
        with tcp_valkey(tmp_path, "--replicaof", f"127.0.0.1 {master}") as replica, sentinel(tmp_path, master) as at:
            address = f"sentinel://127.0.0.1:{at}/0?master_name={GROUP};sentinel://127.0.0.1:{free_port()}"
            watched = with_brokers(settings, address)
            assert broker_answers(watched)
            start_on(start_worker, address)
            woken(watched, make_audit, state)
            master_one.close()
            with redis.Redis(port=replica) as client:
                wait_for(lambda: client.info()["role"] == "master")
            woken(watched, make_audit, state)


def start_on(start_worker: StartWorker, address: str) -> subprocess.Popen[bytes]:
    """A worker that only messages tell of jobs."""
    return start_worker(
        OUTPUTS,
        FINISHED,
        FINETOOTH_BROKER_URL=address,
        FINETOOTH_POLL_SECONDS=NEVER,
        FINETOOTH_RECONCILE_SECONDS=NEVER,
    )


def woken(settings: Settings, make_audit: Callable[..., Audit], state: Callable[[Audit], str]) -> None:
    """An audit is run because it was woken for, as often as it takes to be heard."""
    audit = make_audit()

    def started() -> bool:
        return wake(settings, "gpu") and state(audit) != "queued"

    wait_for(started)
    wait_for(lambda: state(audit) == "succeeded")
