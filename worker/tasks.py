"""The worker's one task: look for due jobs of a lane, and run them until nothing is due."""

import logging
import os
import secrets
import socket
import threading
from functools import lru_cache
from typing import Any

from celery.signals import (
    celeryd_after_setup,
    celeryd_init,
    setup_logging,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.connection_budget import WORKER_CONNECTIONS, tell_budget
from service.lifecycle.reconcile import Reconciler
from service.lifecycle.wakeup import WAKE_TASK
from service.lifecycle.wakeup import wake as send_wake
from service.logs import configure_logging, describe_error
from service.migration import why_unfit
from service.settings import LANES, Lane, get_settings, refuse_to_start
from service.store.engine import make_engine, make_sessions
from service.store.object_store_factory import make_object_store
from service.store.objects import ObjectStore
from worker.celery_app import app
from worker.process.fork_client import make_launcher
from worker.process.workdirs import sweep
from worker.supervisor.database import JobDatabase
from worker.supervisor.device import read_device, why_no_gpu
from worker.supervisor.dispatch import Supervisor
from worker.supervisor.heartbeat import Heartbeat
from worker.supervisor.queue_watch import QueueWatch

log = logging.getLogger(__name__)

OWNER = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
"""This process in `jobs.owner`, `workers` and `scheduler`: a name that is never used again."""

stopping = threading.Event()
"""Set when this worker has been asked to end."""

_running = threading.Lock()
"""Held by whoever runs jobs: one at a time, found by a message or by the watch."""

_companions: list[Heartbeat | Reconciler | QueueWatch] = []


@app.task(name=WAKE_TASK)
def wake(lane: Lane) -> None:
    """Runs the lane's due jobs, oldest first; nothing due: nothing to do."""
    if lane not in LANES:
        log.warning("wake-up for an unknown lane dropped")
        return
    # While the watch runs a job this waits, so that Celery knows the worker for busy and fetches no more messages.
    with _running:
        _run_due(lane)


def run_if_idle(lane: Lane) -> None:
    """Runs the lane's due jobs, unless this worker is at work."""
    if _running.acquire(blocking=False):
        try:
            _run_due(lane)
        finally:
            _running.release()


def _run_due(lane: Lane) -> None:
    try:
        unfit = JobDatabase(sessions()).run_with_retry(lambda session: why_unfit(session.connection()))
        if unfit is not None:
            _tell_once(unfit.detail)
            return
        ran = supervisor().run_due(lane)
    except Exception as error:
        # Celery would log its message, which may quote the data. The job, if there is one, is kept by its lease.
        log.error("woken in vain:\n%s", describe_error(error))
        return
    if stopping.is_set() and ran:
        # The job it was told to leave is queued again: somebody else may be free.
        send_wake(get_settings(), lane)


@lru_cache
def _tell_once(why: str) -> None:
    """The watch looks every second."""
    log.error("no job is taken: %s", why)


@lru_cache
def sessions() -> sessionmaker[Session]:
    """This process's sessions."""
    settings = get_settings()
    assert settings.database_url is not None
    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=WORKER_CONNECTIONS,
        idle_transaction_seconds=settings.lease_seconds,
        pooler=settings.database_pooler,
        application_name="finetooth-worker",
    )
    return make_sessions(engine)


@lru_cache
def objects() -> ObjectStore:
    """This process's object store."""
    return make_object_store(get_settings())


@lru_cache
def supervisor() -> Supervisor:
    """This process's supervisor."""
    settings = get_settings()
    return Supervisor(settings, sessions(), objects(), owner=OWNER, stopping=stopping, launcher=make_launcher())


@setup_logging.connect
def log_in_our_form(**_: Any) -> None:
    """Celery sets nothing up where somebody listens to this signal."""
    configure_logging(get_settings().log_format)


@celeryd_init.connect
def say_nothing_else(instance: Any, **_: Any) -> None:
    """No banner, and before Celery's first warning, which comes ahead of its own setting up of logs."""
    instance.quiet = True
    log_in_our_form()


@celeryd_init.connect
def refuse_without_gpu(options: dict[str, Any], **_: Any) -> None:
    """A worker of the lane gpu that would train on the CPU, fifty times as slowly, ends at once, unless it may."""
    settings = get_settings()
    if settings.train_on == "any" or "gpu" not in (options.get("queues") or LANES):
        return
    reason = why_no_gpu()
    if reason is not None:
        refuse_to_start(f"{reason}. Set FINETOOTH_TRAIN_ON=any to train on the CPU all the same.")


@celeryd_after_setup.connect
def begin(instance: Any, **_: Any) -> None:
    """Tells that this worker is there, and looks after jobs from now on, whether or not the broker answers."""
    settings = get_settings()
    sweep(settings.work)
    lanes = list(instance.app.amqp.queues.consume_from)
    for lane in lanes:
        heartbeat = Heartbeat(
            sessions(),
            owner=OWNER,
            lane=lane,
            seconds=settings.heartbeat_seconds,
            device_failed=lambda: supervisor().device_failed,
        )
        heartbeat.start()
        _companions.append(heartbeat)
        if lane == "gpu":
            _log_device()
            supervisor().prepare()
    tell_budget(sessions(), settings)
    reconciler = Reconciler(settings, sessions(), objects(), owner=OWNER)
    watch = QueueWatch(
        sessions(),
        lanes=lanes,
        seconds=settings.poll_seconds,
        run_if_idle=run_if_idle,
        max_running=settings.max_running_audits,
        stopping=stopping,
    )
    for companion in (reconciler, watch):
        companion.start()
        _companions.append(companion)


@worker_ready.connect
def wake_oneself(sender: Any, **_: Any) -> None:
    """Jobs queued while no worker lived have lost their wake-ups."""
    for lane in sender.app.amqp.queues.consume_from:
        send_wake(get_settings(), lane)


def _log_device() -> None:
    device = read_device()
    if device is None:
        log.warning("the NVIDIA driver tells nothing of this worker's GPU: look at nvidia-smi")
    else:
        log.info("trains on %s, memory %.0f GiB", device.name, device.memory_bytes / 2**30)


@worker_shutting_down.connect
def stop_running(**_: Any) -> None:
    """Runs in the signal handler: no more than a flag."""
    stopping.set()


@worker_shutdown.connect
def sign_off(**_: Any) -> None:
    """After the last job: the others need not wait for what this one held."""
    stopping.set()
    while _companions:
        _companions.pop().stop()
