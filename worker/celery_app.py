"""Celery and its settings, each with the reason. `celery -A worker.celery_app worker --pool threads -c 1 -Q QUEUE`.

Celery carries wake-ups only; the `jobs` row is the job.
"""

from celery import Celery
from kombu import Exchange, Queue

from service.broker_address import kombu_address
from service.settings import (
    LANES,
    BadSettingsError,
    Settings,
    ensure_folder,
    refuse_to_start,
    settings_or_exit,
)


def make_app(settings: Settings) -> Celery:
    """The Celery application.

    Raises:
        BadSettingsError: The database or the broker is missing, or a folder cannot be used.
    """
    if settings.broker_url is None or settings.database_url is None:
        raise BadSettingsError(
            "a worker needs FINETOOTH_DATABASE_URL and FINETOOTH_BROKER_URL (on a laptop, `finetooth up` sets both)"
        )
    for folder in (settings.cache_dir, settings.work, *(() if settings.object_url else (settings.objects,))):
        ensure_folder(settings, folder)
    # Finds connections that died without a word.
    options = {"socket_connect_timeout": 5, "socket_keepalive": True, "health_check_interval": 25}
    url, options = kombu_address(settings.broker_url.get_secret_value(), options)
    app = Celery("finetooth", broker=url, include=["worker.tasks"])
    app.conf.update(
        # Early: a late one would be delivered again after the visibility timeout, in the middle of an audit.
        task_acks_late=False,
        # A busy worker takes no message, so an idle one gets it.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        # Results are rows; a result backend would only fill up.
        result_backend=None,
        task_ignore_result=True,
        # Never pickle: whoever reaches the broker would run code here.
        accept_content=["json"],
        task_serializer="json",
        # The child does the work: this process only waits, forks nothing and stays able to answer.
        worker_pool="threads",
        worker_concurrency=1,
        # A misspelt name is an error at once, not a queue that nobody reads.
        task_queues=[Queue(lane, Exchange(lane), routing_key=lane) for lane in LANES],
        task_default_queue=LANES[0],
        task_create_missing_queues=False,
        # A broker that is away at the start or for a night comes back; giving up would leave a deaf worker.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # The audit that runs needs no broker.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options=options,
        enable_utc=True,
        timezone="UTC",
        # What the child prints may hold sample text: only what we log on purpose goes to the log.
        worker_redirect_stdouts=False,
    )
    return app


def _make_app_or_exit() -> Celery:
    try:
        return make_app(settings_or_exit())
    except BadSettingsError as error:
        refuse_to_start(str(error))


app = _make_app_or_exit()
