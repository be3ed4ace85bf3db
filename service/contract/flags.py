"""Yes or no, as files of any format spell it."""

from typing import Any

_SPELLINGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
"""Accepted words, in lower case."""

SPELLINGS = "true/false, 1/0 or yes/no"
"""The accepted spellings, as messages name them; upper case, numbers and booleans are accepted too."""


def flag_of(value: Any) -> bool | None:
    """Return the value as yes or no; None if it is neither."""
    if isinstance(value, str):
        return _SPELLINGS.get(value.strip().casefold())
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return None
