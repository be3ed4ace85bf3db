"""Prefixed, time-ordered identifiers: `aud_` and 32 hex digits of a UUIDv7 (RFC 9562)."""

import uuid_utils


def new_id(prefix: str) -> str:
    """A fresh id such as `ds_0193...`; later ids sort after earlier ones (to the millisecond)."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"
