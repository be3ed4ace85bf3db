"""The worker's one task: look for due jobs of a lane, and run them until nothing is due."""

import logging
import os
import secrets
import socket
import threading
from functools import lru_cache
from typing import Any

from celery.signals import worker_ready, worker_shutting_down

from service.lifecycle.wakeup import WAKE_TASK
from service.lifecycle.wakeup import wake as send_wake
from service.settings import get_settings
from service.store.engine import make_engine, make_sessions
from service.store.objects import make_object_store
from worker.celery_app import LANES, app
from worker.supervisor import Supervisor

log = logging.getLogger(__name__)

stopping = threading.Event()
"""Set when this worker has been asked to end."""


@app.task(name=WAKE_TASK)
def wake(lane: str) -> None:
    """Runs the lane's due jobs, oldest first; nothing due: nothing to do."""
    if lane not in LANES:
        log.warning("wake-up for an unknown lane dropped")
        return
    ran = supervisor().run_due(lane)
    if stopping.is_set() and ran:
        # The job it was told to leave is queued again: somebody else may be free.
        send_wake(get_settings(), lane)


@lru_cache
def supervisor() -> Supervisor:
    """This process's supervisor; its name in `jobs.owner` is never used again."""
    settings = get_settings()
    assert settings.database_url is not None
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    # Two connections: one loads scores while the other looks for a cancel.
    engine = make_engine(settings.database_url.get_secret_value(), pool_size=2, application_name="finetooth-worker")
    return Supervisor(settings, make_sessions(engine), make_object_store(settings), owner=owner, stopping=stopping)


@worker_ready.connect
def wake_myself(sender: Any, **_: Any) -> None:
    """Jobs queued while no worker lived have lost their wake-ups."""
    for lane in sender.app.amqp.queues.consume_from:
        send_wake(get_settings(), lane)


@worker_shutting_down.connect
def stop_running(**_: Any) -> None:
    """Runs in the signal handler: no more than a flag."""
    stopping.set()
