"""A supervisor whose children follow scripts."""

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.settings import Settings
from service.store.local_objects import LocalObjects
from tests.support.supervisor_bench import Bench


@pytest.fixture
def bench(
    settings: Settings, sessions: sessionmaker[Session], objects: LocalObjects, request: pytest.FixtureRequest
) -> Iterator[Bench]:
    spawns = getattr(request, "param", "forked") == "spawned"
    bench = Bench(settings, sessions, objects, threading.Event(), spawns)
    yield bench
    for fork_client in bench.fork_clients:
        fork_client.close()
