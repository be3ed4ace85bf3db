"""Finding the service to talk to: the one named by FINETOOTH_URL, the running laptop stack, or one started here."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.cli.errors import FAILED, CommandError, refused
from service.cli.invocation import typed
from service.cli.server import Server
from service.client import ApiError, Client, UnreachableError
from service.settings import Settings

START_SECONDS = 90.0
"""How long to wait for a stack that another process has begun to start."""


@contextmanager
def open_server(settings: Settings, report: Callable[[str], None]) -> Iterator[Server]:
    """Connect to a service for the time of the block, and start one for it if none runs.

    Args:
        settings: The data folder of the laptop stack.
        report: Called with what is being done, in a few words.

    Raises:
        CommandError: The service does not start, does not answer, or does not accept the key.
    """
    found = _find(settings, report)
    if found is not None:
        with _client(found.url, found.key) as client:
            yield Server(client, found.url, local=found.local, temporary=False)
        return
    from service.local.errors import StackError
    from service.local.stack import start_stack

    try:
        with start_stack(settings, report=report) as stack, _client(stack.url, stack.admin_key) as client:
            yield Server(client, stack.url, local=True, temporary=True)
    except StackError as error:
        raise CommandError(str(error), FAILED) from None


@contextmanager
def open_running_server(settings: Settings) -> Iterator[Server]:
    """Connect to a running service for the time of the block.

    Args:
        settings: The data folder of the laptop stack.

    Raises:
        CommandError: No service runs, it does not answer, or it does not accept the key.
    """
    found = _find(settings, lambda _: None)
    if found is None:
        raise CommandError(
            f"no service is running here: start one with `{typed('up')}`, or set FINETOOTH_URL and FINETOOTH_API_KEY"
        )
    with _client(found.url, found.key) as client:
        yield Server(client, found.url, local=found.local, temporary=False)


@dataclass(frozen=True)
class _Found:
    url: str
    key: str
    local: bool


def _find(settings: Settings, report: Callable[[str], None]) -> _Found | None:
    url, key = os.environ.get("FINETOOTH_URL", ""), os.environ.get("FINETOOTH_API_KEY", "")
    if url:
        if not key:
            raise CommandError("FINETOOTH_URL is set but FINETOOTH_API_KEY is not: set it to a key of that service")
        return _Found(url.rstrip("/"), key, local=False)
    running = running_stack(settings, report)
    return None if running is None else _Found(running, _admin_key(settings), local=True)


@contextmanager
def _client(url: str, key: str) -> Iterator[Client]:
    if not url.startswith(("http://", "https://")):
        raise CommandError("FINETOOTH_URL must start with http:// or https://")
    if not (key.isascii() and key.isprintable()):
        raise CommandError("the API key contains characters that no key has; copy it again")
    with Client(url, key) as client:
        try:
            # Reading any list shows that the service answers and accepts the key.
            next(iter(client.models()), None)
        except UnreachableError as error:
            raise CommandError(f"{error}; is it running?") from None
        except ApiError as error:
            raise refused(error, url) from None
        yield client


def running_stack(settings: Settings, report: Callable[[str], None]) -> str | None:
    """Find the address of the laptop stack on this data folder, and wait for one that is starting.

    Args:
        settings: The data folder.
        report: Called with what is waited for.

    Returns:
        The address; None if no stack runs.

    Raises:
        CommandError: The stack does not become ready.
    """
    from service.local.stack import find_running

    end = time.monotonic() + START_SECONDS
    while (running := find_running(settings)) is not None:
        if running.url is not None:
            return running.url
        if time.monotonic() > end:
            raise CommandError(
                f"another finetooth (process {running.pid}) uses {settings.data_dir} but is not ready after "
                f"{START_SECONDS:.0f} s; stop it and try again",
                FAILED,
            )
        report(f"Waiting for another finetooth to start (process {running.pid})")
        time.sleep(0.5)
    return None


def _admin_key(settings: Settings) -> str:
    from service.local.admin_key import admin_key_file

    path = admin_key_file(settings)
    try:
        return path.read_text().strip()
    except OSError as error:
        raise CommandError(f"cannot read the admin key {path}: {error.strerror}") from None
