"""The laptop stack's entry points: `up` for the command line, `start_stack` for one run inside a process."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING

from service.inspection import forbid_inspection
from service.local.errors import LocalExtraMissingError, PartEndedError, StackError
from service.local.interrupts import interruptible
from service.settings import BadSettingsError, Settings, get_settings

if TYPE_CHECKING:
    from service.local.laptop import LaptopStack
    from service.local.lock import Running

WATCH_SECONDS = 0.5
"""How often the parts are looked at."""

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end the stack."""


def up(port: int) -> int:
    """Runs the stack until Ctrl-C. Exit code: 0 stopped by the user, 1 a part ended by itself, 2 it could not start."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        with (
            console.status("Starting Finetooth") as status,
            start_stack(get_settings(), port=port, report=status.update) as stack,
        ):
            status.stop()
            console.print(_ready(stack), markup=False)
            try:
                while True:
                    stack.check()
                    time.sleep(WATCH_SECONDS)
            finally:
                status.start()
    except (StackError, BadSettingsError) as error:
        errors.print(f"finetooth up: {error}", markup=False)
        return 1 if isinstance(error, PartEndedError) else 2
    except (KeyboardInterrupt, Stopped):
        console.print("Stopped. The data is kept for the next start.")
        return 0


def _ready(stack: "LaptopStack") -> str:
    return (
        f"Finetooth runs at {stack.url}\n"
        f"  Sign in, once, within {stack.settings.sign_in_link_minutes} minutes:\n"
        f"    {stack.sign_in_link()}\n"
        f"  Admin key for the API:  {stack.admin_key_file}\n"
        f"  Logs:                   {stack.logs}\n"
        f"  Ctrl-C stops everything; the data stays in {stack.settings.data_dir}"
    )


@contextmanager
def start_stack(
    settings: Settings, port: int = 0, *, report: Callable[[str], None] = lambda _: None
) -> "Iterator[LaptopStack]":
    """Start the whole stack, ready for use, and stop it at the end of the block.

    From now on other processes of this user cannot read the environment of this one, from which the stack's settings
    come. Called in the main thread, SIGTERM and SIGHUP also leave the block, as Stopped.

    Args:
        settings: The settings of the installation.
        port: Where the API listens; 0: on a free port.
        report: Called with a line for each part that starts.

    Raises:
        LocalExtraMissingError: The extra `local` is not installed.
        StackError: Finetooth runs already, the port is taken, or a part did not start.
        BadSettingsError: A folder cannot be used.
    """
    if find_spec("psutil") is None:
        raise LocalExtraMissingError
    from service.local.laptop import LaptopStack

    forbid_inspection()
    stack = LaptopStack(settings, report=report)
    with interruptible(), _signals_leave_the_block():
        try:
            stack.start(port)
            yield stack
        finally:
            with _undisturbed():
                stack.stop()


def find_running(settings: Settings) -> "Running | None":
    """The stack that runs on the settings' data folder: its `url` is None while it starts."""
    if find_spec("psutil") is None:
        return None
    from service.local.lock import find_running as find

    return find(settings.data_dir)


class Stopped(SystemExit):
    """SIGTERM or SIGHUP came, so the stack is to stop."""


@contextmanager
def _signals_leave_the_block() -> Iterator[None]:
    """Where nobody else handles them: the default action would skip the orderly stop."""

    def leave(number: int, _: FrameType | None) -> None:
        raise Stopped(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in STOPPING[1:] if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not cut the orderly stop short: its waits are bounded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
