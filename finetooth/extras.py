"""Says what to do where a part of Finetooth lacks a library."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OURS = frozenset({"finetooth", "service", "worker", "migrations"})
"""Packages of the wheel itself, which no extra brings."""


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
        ModuleNotFoundError: Another module stands before one of the wheel's own packages; the message says where.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in OURS:
            if stranger := _stranger(library):
                raise ModuleNotFoundError(
                    f"{user} needs the package '{library}' that is installed with Finetooth, and Python found another "
                    f"one first: rename {stranger}, or start Python from another folder",
                    name=error.name,
                ) from error
            raise
        if not library:
            raise
        raise MissingExtraError(
            f"{user} needs {library}, which is not installed: pip install 'finetooth[{extra}]'", name=error.name
        ) from error


def _stranger(package: str) -> str | None:
    """The file of a module that has the name of one of our packages and does not lie beside this one."""
    file = getattr(sys.modules.get(package), "__file__", None)
    ours = Path(__file__).resolve().parent.parent / package
    return None if file is None or Path(file).resolve().parent == ours else file
