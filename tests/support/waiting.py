"""Waiting for what other threads and processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SOON = 60.0
"""Seconds within which something happens that happens at all: on a busy machine each step can take ten."""


def wait_for(
    condition: Callable[[], T], seconds: float = SOON, what: Callable[[], object] | str = "waited in vain"
) -> T:
    """Wait until a condition holds.

    Args:
        condition: Asked again and again.
        seconds: For how long. Shorter than `SOON` only where the time itself is what the test is about.
        what: What to say if it never holds.

    Returns:
        The condition's first true value.

    Raises:
        AssertionError: It did not hold in time.
    """
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(what if isinstance(what, str) else what())
        time.sleep(0.02)
    return value
