"""Yes or no, as files of any form spell it."""

from typing import Any

_SPELLINGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

SPELLINGS = "true/false, 1/0 or yes/no"
"""Those that are understood, as text says it: in any case, as text, number or boolean."""


def flag_of(value: Any) -> bool | None:
    """Read a value as yes or no; None where it is neither."""
    if isinstance(value, str):
        return _SPELLINGS.get(value.strip().casefold())
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return None
