"""Wakes a worker by sending its Celery task by name. A lost wake-up costs time, never a job: the row is the job."""

import logging
from collections.abc import Callable

from celery import Celery
from kombu import Connection
from kombu.exceptions import ChannelError
from sqlalchemy.orm import Session

from service.broker_address import kombu_address
from service.lifecycle.workers import wake_ups_due
from service.settings import Lane, Settings

WAKE_TASK = "finetooth.wake"
"""Name of the worker's one task; its argument is the lane, and each lane has the queue of its name."""

BUDGET_SECONDS = 2.0
"""The longest that a broker may keep a caller waiting."""

log = logging.getLogger(__name__)


def wake(settings: Settings, lane: str, slots: int = 1) -> bool:
    """Tell workers of a queue to look for a job.

    Args:
        settings: The settings of the installation.
        lane: The queue that jobs of this kind wait in.
        slots: How many messages are to wait in the queue; those that wait already are counted, so there are never more.

    Returns:
        False if the broker did not take them, which is also logged as a warning.
    """
    if settings.broker_url is None:
        log.warning("wake-up not sent: no broker is configured (FINETOOTH_BROKER_URL)", extra={"lane": lane})
        return False
    options = {
        "socket_connect_timeout": BUDGET_SECONDS / 4,
        "socket_timeout": BUDGET_SECONDS / 4,
        "retry_on_timeout": False,
    }
    url, options = kombu_address(settings.broker_url.get_secret_value(), options)
    app = Celery(broker=url, set_as_current=False)
    # A connection of its own: wake-ups are rare, and a pooled one may have died with a restarted broker.
    app.conf.update(broker_connection_timeout=BUDGET_SECONDS / 4, broker_transport_options=options)
    try:
        with app.connection_for_write() as connection:
            for _ in range(slots - _waiting(connection, lane)):
                app.send_task(
                    WAKE_TASK, args=[lane], queue=lane, connection=connection, retry=False, ignore_result=True
                )
    except Exception as error:
        # Not the message: a broker's error may quote its URL, password included.
        log.warning("wake-up not sent: %s", type(error).__name__, extra={"lane": lane})
        return False
    finally:
        app.close()
    return True


def wake_idle(session: Session, settings: Settings, lane: Lane, later: Callable[..., None]) -> None:
    """Wake idle workers, if there are any, for what has just been queued; busy ones look by themselves.

    for the broker.

    Args:
        session: An open transaction.
        settings: The settings of the installation.
        lane: The queue that jobs of this kind wait in.
        later: Called with a function and its arguments; runs it after the commit and the response, so that no client
            waits
    """
    slots = wake_ups_due(session, lane, settings)
    if slots:
        later(wake, settings, lane, slots)


def _waiting(connection: Connection, lane: str) -> int:
    """Messages in the lane's queue that no worker has taken yet."""
    try:
        declared = connection.default_channel.queue_declare(queue=lane, passive=True)
    except ChannelError:
        return 0  # Nobody has ever used it.
    return int(declared.message_count)
