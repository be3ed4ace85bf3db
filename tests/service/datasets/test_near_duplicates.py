"""What an upload leaves to be done: a job of the io lane counts its near-duplicates."""

import threading

import pytest
import redis
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.tables import Job
from tests.support.dataset_records import chat, jsonl
from worker.supervisor.dispatch import Supervisor


@pytest.fixture
def dataset_id(client: TestClient) -> str:
    words = [f"word{number}" for number in range(80)]
    answers = [" ".join(words), " ".join([*words, "more"]), " ".join(words).upper(), "Something else."]
    answer = client.post("/v1/datasets", content=jsonl([chat("Which tea?", text) for text in answers]))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_they_are_null_until_they_are_counted(
    client: TestClient, dataset_id: str, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    address = f"/v1/datasets/{dataset_id}/statistics"
    assert client.get(address).json()["near_duplicates"] is None
    worker = Supervisor(settings, sessions, LocalObjects(settings.objects), owner="w", stopping=threading.Event())
    assert worker.run_due("io") == 1
    counted = client.get(address).json()["near_duplicates"]
    assert counted == {
        "rows": 2,
        "exact": 1,
        "threshold": 0.8,
        "method": "MinHash of 128 slots over word 3-grams of the normalised text",
    }


def test_a_worker_of_the_lane_is_woken(dataset_id: str, settings: Settings, sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        job = session.scalars(select(Job)).one()
    assert (job.kind, job.lane, job.subject_id, job.state) == ("dataset", "io", dataset_id, "queued")
    assert job.request_id is not None
    assert settings.broker_url is not None
    with redis.Redis.from_url(settings.broker_url.get_secret_value().replace("redis+socket", "unix")) as broker:
        assert (broker.llen("io"), broker.llen("gpu")) == (1, 0)


def test_a_dataset_may_be_deleted_before_it_is_counted(
    client: TestClient, dataset_id: str, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    worker = Supervisor(settings, sessions, LocalObjects(settings.objects), owner="w", stopping=threading.Event())
    assert worker.run_due("io") == 1
    with sessions() as session:
        assert session.scalars(select(Job.state)).one() == "succeeded"
