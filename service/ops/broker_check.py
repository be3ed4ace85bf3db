"""Finds out whether the broker answers."""

import time

from anyio import Lock
from anyio.to_thread import run_sync

from service.broker_address import kombu_address
from service.settings import Settings

PATIENCE_SECONDS = 0.5
"""How long the broker may take to answer a health check."""

ASKED_AGAIN_AFTER = 2.0
"""Seconds for which an answer is good: anybody may ask /readyz, as often as they like."""


class BrokerCheck:
    """Asks the broker once at a time, however many want to know."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asking = Lock()
        self._asked_at: float | None = None
        self._answers = False

    async def answers(self) -> bool:
        """As it was found at most ASKED_AGAIN_AFTER seconds ago."""
        async with self._asking:
            if self._asked_at is None or time.monotonic() - self._asked_at >= ASKED_AGAIN_AFTER:
                self._answers = await run_sync(broker_answers, self._settings)
                self._asked_at = time.monotonic()
            return self._answers


def broker_answers(settings: Settings) -> bool:
    """Say whether the broker answers: it takes a connection and a PING, within PATIENCE_SECONDS each."""
    if settings.broker_url is None:
        return False
    # Imported here, as it takes long and a starting API needs it for nothing else.
    from kombu import Connection

    options = {"socket_connect_timeout": PATIENCE_SECONDS, "socket_timeout": PATIENCE_SECONDS}
    try:
        url, options = kombu_address(settings.broker_url.get_secret_value(), options)
        with Connection(url, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, timeout=2 * PATIENCE_SECONDS, interval_start=0)
            connection.default_channel.client.ping()
    except Exception:
        return False  # Whatever it was; its message may quote the URL.
    return True
