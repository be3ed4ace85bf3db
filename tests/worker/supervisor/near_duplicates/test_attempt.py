"""The job that counts a dataset's near-duplicates, with its real child."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from service.contract.results import NearDuplicates
from service.lifecycle.datasets import publish_near_duplicates, queue_duplicate_count
from service.lifecycle.jobs import claim
from service.lifecycle.reconcile import Reconciler
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.tables import Dataset, Job
from tests.support.exportable import jsonl, store_dataset
from tests.support.waiting import wait_for
from worker.supervisor.dispatch import Supervisor

UPLOAD = jsonl(30) + jsonl(5)


@pytest.fixture
def dataset(sessions: sessionmaker[Session], objects: LocalObjects, workspace_id: str) -> Dataset:
    """30 samples, of which 5 stand there twice; its job is queued."""
    with sessions.begin() as session:
        dataset = store_dataset(session, objects, workspace_id, UPLOAD)
        queue_duplicate_count(session, workspace_id=workspace_id, dataset_id=dataset.id, request_id=None)
    return dataset


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


@pytest.fixture
def work(
    settings: Settings, sessions: sessionmaker[Session], objects: LocalObjects, stopping: threading.Event
) -> Callable[[], int]:
    settings = settings.model_copy(update={"poll_seconds": 0.1})
    return lambda: Supervisor(settings, sessions, objects, owner="w", stopping=stopping).run_due("io")


def job_of(sessions: sessionmaker[Session], dataset: Dataset) -> Job:
    with sessions() as session:
        return session.scalars(select(Job).where(Job.subject_id == dataset.id)).one()


def result_of(sessions: sessionmaker[Session], dataset: Dataset) -> dict[str, object] | None:
    with sessions() as session:
        return session.get_one(Dataset, dataset.id).near_duplicates


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended meanwhile, or a zombie
            if "worker.child.count_near_duplicates" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_the_count_is_published(
    sessions: sessionmaker[Session], dataset: Dataset, work: Callable[[], int], settings: Settings
) -> None:
    assert result_of(sessions, dataset) is None
    assert work() == 1
    counted = NearDuplicates.model_validate(result_of(sessions, dataset))
    assert (counted.rows, counted.exact, counted.threshold) == (5, 5, 0.8)
    assert "MinHash" in counted.method
    job = job_of(sessions, dataset)
    assert (job.state, job.lane, job.attempt) == ("succeeded", "io", 1)
    assert list(settings.work.glob("*")) == []


def test_a_dataset_that_is_gone_is_no_failure(
    sessions: sessionmaker[Session], dataset: Dataset, work: Callable[[], int]
) -> None:
    with sessions.begin() as session:
        session.delete(session.get_one(Dataset, dataset.id))
    assert work() == 1
    assert job_of(sessions, dataset).state == "succeeded"


def test_without_its_rows_the_job_fails_and_the_dataset_stays(
    sessions: sessionmaker[Session], dataset: Dataset, work: Callable[[], int], objects: LocalObjects
) -> None:
    objects.delete_tree(dataset_key(dataset.workspace_id, dataset.id))
    assert work() == 1
    job = job_of(sessions, dataset)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "input_missing"
    assert result_of(sessions, dataset) is None


def test_rows_that_cannot_be_read_are_a_crash_of_the_child_alone(
    sessions: sessionmaker[Session], dataset: Dataset, work: Callable[[], int], objects: LocalObjects
) -> None:
    with objects.create(dataset_key(dataset.workspace_id, dataset.id, "rows.parquet")) as file:
        file.write(b"no parquet")
    assert work() == 1
    job = job_of(sessions, dataset)
    assert job.error is not None
    assert (job.state, job.error["code"]) == ("failed", "child_crashed")
    assert "near-duplicates are not counted" in job.error["hint"]


def test_a_killed_child_is_tried_again(
    sessions: sessionmaker[Session], dataset: Dataset, work: Callable[[], int]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        wait_for(children)
        os.kill(children()[0].pid, signal.SIGKILL)
        running.result(timeout=30)
    job = job_of(sessions, dataset)
    assert (job.state, job.failures) == ("queued", 1)
    with sessions.begin() as session:
        session.execute(update(Job).values(next_attempt_at=func.now()))
    assert work() == 1
    assert result_of(sessions, dataset) is not None


def test_a_worker_that_ends_gives_it_back(
    sessions: sessionmaker[Session], dataset: Dataset, work: Callable[[], int], stopping: threading.Event
) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        wait_for(children)
        stopping.set()
        running.result(timeout=30)
    job = job_of(sessions, dataset)
    assert (job.state, job.failures) == ("queued", 0)
    assert children() == []


def test_a_zombie_publishes_nothing(
    settings: Settings, sessions: sessionmaker[Session], dataset: Dataset, objects: LocalObjects
) -> None:
    with sessions.begin() as session:
        held = claim(session, lane="io", owner="zombie")
    assert held is not None
    with sessions.begin() as session:
        session.execute(update(Job).values(lease_expires_at=func.now()))
    assert Reconciler(settings, sessions, objects, owner="r").round()
    with sessions.begin() as session:
        assert not publish_near_duplicates(session, held, NearDuplicates(rows=1, exact=0, threshold=0.8, method="m"))
    assert result_of(sessions, dataset) is None
    assert job_of(sessions, dataset).state == "queued"
