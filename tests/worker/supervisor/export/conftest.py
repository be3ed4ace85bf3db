"""A bench for exports: a real supervisor of the io lane, and what a bystander sees."""

import threading

import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.settings import Settings
from service.store.local_objects import LocalObjects
from tests.support.export_bench import Bench


@pytest.fixture
def bench(settings: Settings, sessions: sessionmaker[Session], workspace_id: str) -> Bench:
    return Bench(settings, sessions, LocalObjects(settings.objects), workspace_id, threading.Event())
