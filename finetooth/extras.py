"""Says which extra to install where a part of Finetooth lacks a library."""

from collections.abc import Iterator
from contextlib import contextmanager

OURS = frozenset({"finetooth", "service", "worker", "migrations"})
"""Packages of the wheel itself: where one of these lacks a module, no extra brings it."""


class MissingExtraError(ModuleNotFoundError):
    """A library of an extra is not installed."""


@contextmanager
def needs_extra(extra: str, user: str) -> Iterator[None]:
    """Turn a missing library inside the block into advice.

    Args:
        extra: The extra that brings what the block imports.
        user: What needs it, as the message begins.

    Raises:
        MissingExtraError: A library is missing; the message says how to install the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if not library or library in OURS:
            raise
        raise MissingExtraError(
            f"{user} needs {library}, which is not installed: pip install 'finetooth[{extra}]'", name=error.name
        ) from error
