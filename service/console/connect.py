"""Which service the command talks to: a given one, the running laptop stack, or one started for this run."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.client import ApiError, Client, UnreachableError
from service.console.errors import FAILED, CommandError, refused
from service.console.server import Server
from service.settings import Settings

START_SECONDS = 90.0
"""How long a stack that another process has just begun to start is waited for."""


@contextmanager
def open_server(settings: Settings, report: Callable[[str], None]) -> Iterator[Server]:
    """A server for the time of the block. Raises CommandError."""
    url, key = os.environ.get("FINETOOTH_URL", ""), os.environ.get("FINETOOTH_API_KEY", "")
    if url:
        if not key:
            raise CommandError("FINETOOTH_URL is set and FINETOOTH_API_KEY is not: set it to a key of that service")
        with _client(url, key) as client:
            yield Server(client, url.rstrip("/"), local=False, temporary=False)
        return
    running = _running(settings, report)
    if running is not None:
        with _client(running, _admin_key(settings)) as client:
            yield Server(client, running, local=True, temporary=False)
        return
    from service.local.errors import StackError
    from service.local.stack import start_stack

    try:
        with start_stack(settings, report=report) as stack, _client(stack.url, stack.admin_key) as client:
            yield Server(client, stack.url, local=True, temporary=True)
    except StackError as error:
        raise CommandError(str(error), FAILED) from None


@contextmanager
def _client(url: str, key: str) -> Iterator[Client]:
    if not url.startswith(("http://", "https://")):
        raise CommandError("FINETOOTH_URL is not an address that starts with http:// or https://")
    if not (key.isascii() and key.isprintable()):
        raise CommandError("the API key holds characters that no key has")
    with Client(url, key) as client:
        try:
            # Any list shows that the service answers and that it takes the key.
            next(iter(client.models()), None)
        except UnreachableError as error:
            raise CommandError(f"{error}; is it running?") from None
        except ApiError as error:
            raise refused(error, url) from None
        yield client


def _running(settings: Settings, report: Callable[[str], None]) -> str | None:
    """Address of the laptop stack on this data folder, waiting for one that starts."""
    from service.local.stack import find_running

    end = time.monotonic() + START_SECONDS
    while (running := find_running(settings)) is not None:
        if running.url is not None:
            return running.url
        if time.monotonic() > end:
            raise CommandError(
                f"another finetooth (process {running.pid}) holds {settings.data_dir} and does not get ready", FAILED
            )
        report(f"Waiting for the finetooth that starts (process {running.pid})")
        time.sleep(0.5)
    return None


def _admin_key(settings: Settings) -> str:
    from service.local.admin_key import admin_key_file

    path = admin_key_file(settings)
    try:
        return path.read_text().strip()
    except OSError as error:
        raise CommandError(f"cannot read the admin key {path}: {error.strerror}") from None
