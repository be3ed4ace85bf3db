"""Byte ranges of RFC 9110, for answers whose bytes never change under their ETag."""

import re

from starlette.datastructures import Headers

from service.http.problems.problem import Problem

_ONE_RANGE = re.compile(r"bytes=[ \t]*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))[ \t]*", re.IGNORECASE | re.ASCII)


def requested_range(headers: Headers, etag: str, size: int) -> tuple[int, int] | None:
    """Read which bytes a request's `Range` asks for.

    Several ranges, other units and malformed headers give the whole, as the standard allows; so does a range for
    another version (`If-Range`, compared strongly, and never with a date).

    Args:
        headers: The request's headers.
        etag: The current strong tag.
        size: The size of the whole in bytes.

    Returns:
        The first byte and the one after the last; None for the whole.

    Raises:
        Problem: 416 `range_not_satisfiable`: the range begins behind the last byte.
    """
    given = headers.get("range")
    if given is None or headers.get("if-range", etag).strip() != etag:
        return None
    match = _ONE_RANGE.fullmatch(given.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(size - int(suffix), 0), size
    else:
        start, end = int(first), size if not last else min(int(last) + 1, size)
        if last and int(last) < int(first):
            return None
    if start >= size:
        raise Problem(
            416,
            "range_not_satisfiable",
            f"There are {size} bytes, counted from 0.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end
