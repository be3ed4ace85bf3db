"""Whether the broker answers."""

from service.settings import Settings

PATIENCE_SECONDS = 0.5


def broker_answers(settings: Settings) -> bool:
    """One connection and a PING, within PATIENCE_SECONDS each."""
    if settings.broker_url is None:
        return False
    # Imported here, as it takes long and a starting API needs it for nothing else.
    from kombu import Connection

    options = {"socket_connect_timeout": PATIENCE_SECONDS, "socket_timeout": PATIENCE_SECONDS}
    try:
        with Connection(settings.broker_url.get_secret_value(), transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, timeout=2 * PATIENCE_SECONDS, interval_start=0)
            connection.default_channel.client.ping()
    except Exception:
        return False  # Whatever it was; its message may quote the URL.
    return True
